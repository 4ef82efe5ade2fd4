"""Remake book/images/overview.png, the picture at the top of README and book: the shipped sample taken apart."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import moirelib  # noqa: E402
from moirelib import data, plot  # noqa: E402


def main() -> None:
    """Decompose the sample and draw raw frame, layer 1 and layer 2."""
    movie, _ = data.sample()
    result = moirelib.decompose(movie)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    plot.show_split(movie.frame(0), np.asarray(result.layers[0]), movie.pixel_size, axes)
    axes[0].set_title("raw frame (simulated)", fontsize=10)
    figure.savefig(Path(__file__).parent.parent / "book" / "images" / "overview.png", dpi=110)


if __name__ == "__main__":
    main()
