"""The folder that a demo writes: its own, so that a demo overwrites nobody's files and is written anew in place."""

import json
import os
import re
from collections.abc import Collection, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from model.files import WriteError, check_folder, write_whole

LIST = "demo.json"
"""Lists the files of a demo, and what was seen in them."""
_LONGEST = 60
"""Of a name that is made of a photo's, characters."""


class Folder:
    """A folder that holds nothing but a demo.

    Args:
        path: of the folder; it need not exist.

    Raises:
        WriteError: it cannot be made or written to.
        OSError: it is a file, or holds other files than a demo's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_file():
            raise OSError(f"{path} is a file: name a folder first, as by `fieldmark demo DIR PHOTO`")
        check_folder(path)
        there = set(os.listdir(path)) if path.exists() else set()
        self._before = there & {*_listed(path), LIST}
        if others := there - self._before:
            raise OSError(f"{path} holds other files, such as {min(others)}: choose an empty folder, or a new one")

    def begin(self, files: Sequence[str]) -> None:
        """Make the folder, and list what may be written, so that an interrupted demo can be written anew, too.

        Args:
            files: their names.

        Raises:
            WriteError: that failed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(self.path, error) from error
        self._list([*files, *sorted(self._before - {LIST, *files})], {})

    def write(self, name: str, content: bytes) -> str:
        """Write a file; return its name."""
        write_whole(self.path / name, content)
        return name

    def finish(self, files: Sequence[str], results: dict[str, Any]) -> None:
        """Remove what is left of the demo before, which may hold this one's photos; write the list and the results."""
        for name in self._before - {LIST, *files}:
            (self.path / name).unlink(missing_ok=True)
        self._list(files, results)

    def _list(self, files: Sequence[str], results: dict[str, Any]) -> None:
        document = {"made_by": "fieldmark demo", "files": list(files), **results}
        write_whole(self.path / LIST, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _listed(path: Path) -> Collection[str]:
    """Return the files that the demo in a folder wrote; none where its list cannot be read."""
    try:
        files = json.loads((path / LIST).read_bytes())["files"]
        return {name for name in files if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def names_of(photos: Sequence[str]) -> list[str]:
    """Return a name for each photo's files: the photo's own, plain and different from all others.

    Args:
        photos: their paths.
    """
    names: list[str] = []
    for photo in photos:
        stem = Path(photo).stem.encode("utf-8", "replace").decode()
        plain = re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:_LONGEST] or "photo"
        taken = {name.casefold() for name in names}
        others = (f"{plain}.{number}" for number in count(2))
        names.append(next(name for name in chain([plain], others) if name.casefold() not in taken))
    return names
