"""PNG, JPEG and other everyday pictures."""

from pathlib import Path

from .stored import StoredImage


def read_picture(path: Path) -> StoredImage:
    """A picture, which carries no scale."""
    from skimage.io import imread  # slow to import, seldom needed

    return StoredImage(imread(path))
