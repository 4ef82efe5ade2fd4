"""Write a folder of results as a whole or not at all, as every command does."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_PARTIAL = f".partial-{platform.node()}-"  # before the number of the process; a disk may serve several computers


@contextlib.contextmanager
def output_folder(folder: str | os.PathLike[str], replaces: Iterable[str] = ()) -> Iterator[Path]:
    """Give a temporary folder to write into; its files move to the wanted folder at the end, if there was no error.

    The wanted folder is made if absent; what killed runs left there is removed. Files there of an earlier run that
    match one of the patterns ``replaces``, such as ``"*.png"``, and were not written again are deleted. OSError if it
    cannot be made or written, before any work is done; or if an older file there cannot be replaced at the end: the
    message says in which folder beside it the new files are kept.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OSError(f"cannot write into {folder}: it is a file, not a folder; choose another output folder")
    created = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise OSError(f"cannot write into {folder} ({error.strerror}); choose another output folder") from error
    try:
        yield partial
        try:
            written = _move_all(partial, folder)
        except OSError as error:  # the work is done: keep it
            kept = partial.rename(folder / f"unsaved-{partial.name.rpartition('-')[2]}")
            raise OSError(f"{error}; the new files are in {kept}") from error
        for old in (file for pattern in replaces for file in folder.glob(pattern)):
            if old.name not in written:
                old.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()  # only succeeds when nothing was written


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs on this computer left: folders whose process, named by its number, is gone."""
    for old in folder.glob(f"{_PARTIAL}*") if os.name == "posix" else ():  # Windows cannot be asked in this way
        try:
            os.kill(int(old.name.split("-")[-2]), 0)  # sends nothing
        except ProcessLookupError:
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, ValueError, OverflowError):  # of another user, or of another name
            continue


def _move_all(partial: Path, folder: Path) -> set[str]:
    """Move all files, after checking that every older file of the same name can be replaced; returns their names."""
    targets = {file: folder / file.name for file in sorted(partial.iterdir())}
    for target in filter(Path.exists, targets.values()):
        try:
            open(target, "r+b").close()
        except OSError as error:
            raise OSError(f"cannot replace {target} ({error.strerror}): close or move it") from error
    for file, target in targets.items():
        os.replace(file, target)
    return {file.name for file in targets}
