"""Settings for all tests: figures without a screen, and no more threads than the machine has to spare."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "2")
