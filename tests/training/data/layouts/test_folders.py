"""Class folders of Kaggle's Stanford Cars, with boxes in tables beside them."""

from collections.abc import Callable
from pathlib import Path

from training.data.datasets import load_dataset


def test_kaggles_cars_by_classes_have_boxes(photo: Callable[..., Path], tmp_path: Path) -> None:
    """`car_data/car_data/train|test/CLASS`, the same number in both parts, and the boxes of the right part."""
    names = ("Acura TL Sedan 2012", "Ram C-V Cargo Van Minivan 2012")
    for part in ("train", "test"):
        for number, name in enumerate(names, 1):
            photo(tmp_path / "car_data" / "car_data" / part / name / f"{number:05}.jpg")
        left = 10 if part == "train" else 20
        (tmp_path / f"anno_{part}.csv").write_text(f"00001.jpg,{left},6,40,45,1\n00002.jpg,{left},6,40,45,2\n")
    (tmp_path / "names.csv").write_text("Acura TL Sedan 2012\nRam C/V Cargo Van Minivan 2012\n")
    for root in (tmp_path, tmp_path / "car_data", tmp_path / "car_data" / "car_data"):
        dataset = load_dataset(root)
        assert dataset.labels == names
        assert [sample.box for sample in dataset.train] == [(10, 6, 40, 45)] * 2
        assert [sample.box for sample in dataset.test] == [(20, 6, 40, 45)] * 2
