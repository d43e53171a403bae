"""Which files and folders of a directory are ours: nothing else is touched, and none of ours may be a link."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bonsai_core.rundir.files import refuse_links_inside, refuse_other_than


@dataclass(frozen=True)
class Names:
    """The names of our files and folders, as regular expressions of paths relative to the directory.

    Attributes:
        files: files directly in it.
        folders: folders directly in it; everything in them is ours.
        nested: folders that are checked when they are opened themselves.
        temporaries: files and folders that a killed process may leave half-written.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    temporaries: tuple[str, ...] = ()

    def refuse_links(self, directory: Path) -> None:
        """Check that what has one of these names is an ordinary file or folder.

        Raises:
            BonsaiError: something is a link, or not what it should be; the message names it.
        """
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if _matches(path.name, self.files):
                refuse_other_than("file", path)
            elif _matches(path.name, (*self.nested, *self.folders)):
                refuse_other_than("folder", path)
                if not _matches(path.name, self.nested):
                    refuse_links_inside(path)

    def remove_temporaries(self, directory: Path) -> None:
        """Remove what a killed process left half-written."""
        folders = [path for path in directory.iterdir() if path.is_dir() and _matches(path.name, self.folders)]
        for path in [*directory.iterdir(), *(path for folder in folders for path in folder.iterdir())]:
            name = path.relative_to(directory).as_posix()
            if _matches(name, self.temporaries):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
