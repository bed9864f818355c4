"""FGVC-Aircraft, by its official lists."""

from pathlib import Path

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, must_exist, read_table
from training.data.samples import Box, Dataset, Sample
from training.errors import DatasetError

AIRCRAFT_BANNER = 20
"""Height of the copyright banner at the bottom of every FGVC-Aircraft photo, pixels."""


def load_aircraft(folder: Path) -> Dataset:
    """Read FGVC-Aircraft (variants, trained on trainval) through torchvision's class, and the boxes beside it."""
    from torchvision.datasets import FGVCAircraft

    root = folder.parent if folder.name == "fgvc-aircraft-2013b" else folder
    data = root / "fgvc-aircraft-2013b" / "data"
    for name in ("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt"):
        must_exist(data / name)
    boxes: dict[str, Box] = {}
    if (data / "images_box.txt").is_file():
        # One-based and inclusive, as the data set's own README says.
        for key, row in read_table(data / "images_box.txt", 5):
            left, top, right, bottom = map(float, row)
            boxes[key] = (left - 1, top - 1, right, bottom)
    parts: dict[str, tuple[Sample, ...]] = {}
    labels: tuple[str, ...] = ()
    for split in ("trainval", "test"):
        try:
            listed = FGVCAircraft(root, split=split, annotation_level="variant", download=False)
        except (KeyError, ValueError, OSError) as error:
            raise DatasetError(
                f"{data / f'images_variant_{split}.txt'}: {error!r} does not fit variants.txt"
            ) from error
        labels = shown_labels(listed.classes)
        files = zip(map(Path, listed._image_files), listed._labels, strict=True)
        parts[split] = tuple(Sample(path, label, boxes.get(path.stem)) for path, label in files)
    return Dataset(
        "FGVC-Aircraft", labels, parts["trainval"], parts["test"], banner=AIRCRAFT_BANNER, licence=NON_COMMERCIAL
    )
