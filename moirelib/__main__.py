"""``python -m moirelib``, the same as the ``moirelib`` command."""

import sys

from .cli import main

sys.exit(main())
