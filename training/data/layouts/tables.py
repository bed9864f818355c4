"""Lists as data sets keep them: lines of columns, separated by blanks."""

from pathlib import Path

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
