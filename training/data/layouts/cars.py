"""Stanford Cars, by the .mat files of its development kit."""

from pathlib import Path

import numpy as np

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, must_exist
from training.data.samples import Dataset, Sample
from training.errors import DatasetError


def load_cars(folder: Path) -> Dataset:
    """Read Stanford Cars through torchvision's class, and the boxes from the same .mat files (needs scipy)."""
    from scipy.io import loadmat
    from torchvision.datasets import StanfordCars

    root = folder.parent if folder.name == "stanford_cars" else folder
    base = root / "stanford_cars"
    annotations = {
        "train": base / "devkit" / "cars_train_annos.mat",
        "test": base / "cars_test_annos_withlabels.mat",
    }
    for path in (base / "devkit" / "cars_meta.mat", *annotations.values()):
        must_exist(path)
    parts: dict[str, tuple[Sample, ...]] = {}
    labels: tuple[str, ...] = ()
    for split, path in annotations.items():
        try:
            listed = StanfordCars(root, split=split, download=False)
            rows = np.atleast_1d(loadmat(path, squeeze_me=True)["annotations"])
            boxes = [tuple(float(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2")) for row in rows]
        except DatasetError:
            raise
        except Exception as error:  # scipy has a dozen ways to dislike a damaged file
            raise DatasetError(f"{path} or the images beside it: {error}") from error
        labels = shown_labels([str(name) for name in listed.classes])
        parts[split] = tuple(
            Sample(Path(name), int(label), box)  # type: ignore[arg-type]  # four sides, as listed above
            for (name, label), box in zip(listed._samples, boxes, strict=True)
        )
    return Dataset("Stanford Cars", labels, parts["train"], parts["test"], licence=NON_COMMERCIAL)
