"""Lists as data sets keep them: lines of columns, separated by blanks."""

from collections import deque
from pathlib import Path

from training.data.layouts.files import is_system
from training.errors import DatasetError

NON_COMMERCIAL = "non-commercial research and education; the images belong to their photographers"


def read_table(path: Path, columns: int) -> list[tuple[str, list[str]]]:
    """Read lines of `key value …` separated by blanks; the last column of a two-column table may hold blanks."""
    try:
        lines = must_exist(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text ({error})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *values = line.split(maxsplit=1) if columns == 2 else line.split()
        if len(values) != columns - 1:
            raise DatasetError(f"{path}, line {number}: expected {columns} columns, found {line!r}")
        rows.append((key, values))
    return rows


def must_exist(path: Path) -> Path:
    """Return the path.

    Raises:
        DatasetError: no file is there.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    return path


def find_below(folder: Path, name: str, *, folders: bool = False, depth: int = 4) -> Path | None:
    """Return the file (or folder) of a name that lies least deep, or None.

    Args:
        folder: where to look.
        name: to find.
        folders: look for a folder.
        depth: levels below.
    """
    queue = deque([(folder, 0)])
    while queue:
        at, level = queue.popleft()
        if (at / name).is_dir() if folders else (at / name).is_file():
            return at / name
        if level < depth:
            below = sorted(path for path in at.iterdir() if path.is_dir() and not is_system(path.name))
            queue.extend((path, level + 1) for path in below)
    return None
