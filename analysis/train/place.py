"""Where a result goes: a new folder, or one of our own to be replaced; never half-written, nobody else's files lost."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Owned = Callable[[Path], set[str]]


class PlaceTaken(Exception):
    """The result cannot go there; the text says why and what to give instead."""


def check(out: Path, replace: bool, owned: Owned) -> None:
    """Refuse a place that holds anything but what is to be replaced.

    Parameters
    ----------
    owned : callable
        Names of the files of ours in a folder; empty where it holds no result of this kind.

    Raises
    ------
    PlaceTaken
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise PlaceTaken(f"{out}: a file or link stands there; give a new folder")
    if out.parent.exists() and not out.parent.is_dir():
        raise PlaceTaken(f"{out.parent}: is no folder; give another --out")
    there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if not there:
        return
    if not replace:
        raise PlaceTaken(f"{out}: not empty; give a new folder, or --replace to replace the result there")
    ours = owned(out)
    if not ours:
        raise PlaceTaken(f"{out}: holds no result of this kind, so it is not replaced; give another folder")
    if there - ours:
        raise PlaceTaken(f"{out}: holds {min(there - ours)!r} too, so it is not replaced; move that away first")


@contextmanager
def place(out: Path, replace: bool, owned: Owned) -> Iterator[Path]:
    """A draft folder beside the target that takes its place when it is whole; the old one comes back if that fails.

    Raises
    ------
    PlaceTaken
        Something has appeared there in the meantime.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft, old = Path(scratch) / "draft", Path(scratch) / "old"
        yield draft
        check(out, replace, owned)
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(draft, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
