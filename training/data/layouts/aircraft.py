"""FGVC-Aircraft (variants, trained on trainval), by its official lists, wherever its archive was unpacked."""

from pathlib import Path

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, find_below, must_exist, read_numbers, read_table
from training.data.samples import Box, Dataset, Sample
from training.errors import DatasetError

AIRCRAFT_BANNER = 20
"""Height of the copyright banner at the bottom of every FGVC-Aircraft photo, pixels."""
_LISTS = ("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt")


def load_aircraft(folder: Path) -> Dataset:
    """Read the lists of variants, and the boxes beside them.

    Raises:
        DatasetError: a list is missing, or does not fit the others.
    """
    found = next((path for name in _LISTS if (path := find_below(folder, name))), None)
    data = found.parent if found else folder / "fgvc-aircraft-2013b" / "data"
    for name in _LISTS:
        must_exist(data / name)
    names = [line.strip() for line in (data / "variants.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    boxes: dict[str, Box] = {}
    if (data / "images_box.txt").is_file():
        # One-based and inclusive, according to the data set's README.
        for key, (left, top, right, bottom) in read_numbers(data / "images_box.txt", 5, float).items():
            boxes[key] = (left - 1, top - 1, right, bottom)
    parts = {part: _samples(data, f"images_variant_{part}.txt", names, boxes) for part in ("trainval", "test")}
    return Dataset(
        "FGVC-Aircraft",
        shown_labels(names, [data / "variants.txt"] * len(names)),
        parts["trainval"],
        parts["test"],
        banner=AIRCRAFT_BANNER,
        licence=NON_COMMERCIAL,
    )


def _samples(data: Path, name: str, names: list[str], boxes: dict[str, Box]) -> tuple[Sample, ...]:
    index = {variant: label for label, variant in enumerate(names)}
    rows = read_table(data / name, 2, unique=True)
    if unknown := next((variant for _, (variant,) in rows if variant.strip() not in index), None):
        raise DatasetError(f"{data / name}: {unknown!r} does not fit variants.txt")
    return tuple(
        Sample(data / "images" / f"{key}.jpg", index[variant.strip()], boxes.get(key)) for key, (variant,) in rows
    )
