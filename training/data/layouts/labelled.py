"""A user's own photos, with a `labels.csv` beside them."""

import csv
from pathlib import Path
from typing import Any

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import must_exist
from training.data.samples import Box, Dataset, Sample, hold_out
from training.errors import DatasetError


def load_csv(folder: Path) -> Dataset:
    """Read `labels.csv`: columns `file` and `class_name`, and optionally `class_id`, `split` and `x1,y1,x2,y2`.

    Paths are relative to the folder, or to `images/` in it. Without a `split` column, a fifth of every class is test.
    """
    path = must_exist(folder / "labels.csv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "class_name"} <= set(rows[0]):
        raise DatasetError(f"{path}: expected a header with the columns file and class_name, and rows below")
    images = folder / "images" if (folder / "images" / rows[0]["file"]).is_file() else folder
    try:
        order = {row["class_name"]: int(row.get("class_id") or 0) for row in rows}
        names = sorted(order, key=lambda name: (order[name], name))
        index = {name: position for position, name in enumerate(names)}
        samples = [Sample(images / row["file"], index[row["class_name"]], _csv_box(row)) for row in rows]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    splits = [(row.get("split") or "").strip().lower() for row in rows]
    if unknown := set(splits) - {"train", "val", "valid", "trainval", "test", ""}:
        raise DatasetError(f"{path}: column split has {sorted(unknown)}; expected train or test")
    if any(splits):
        train = [sample for sample, split in zip(samples, splits, strict=True) if split != "test"]
        test = [sample for sample, split in zip(samples, splits, strict=True) if split == "test"]
    else:
        train, test = hold_out(samples, 0.2, seed=0)
    return Dataset(folder.name, shown_labels(names), tuple(train), tuple(test), licence="as the user's own data")


def _csv_box(row: dict[str, Any]) -> Box | None:
    sides = [row.get(name) or "" for name in ("x1", "y1", "x2", "y2")]
    if not all(sides):
        return None
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom
