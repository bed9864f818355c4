"""Data sets as Kaggle's archives unpack them, named by any of their folders."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from training.data.datasets import load_dataset
from training.errors import DatasetError

Photo = Callable[..., Path]
REAL = os.environ.get("FIELDMARK_DATA")


def write_mat(path: Path, labels: bool, photos: list[str]) -> None:
    """Write one of Stanford Cars' lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"bbox_{side}" for side in ("x1", "y1", "x2", "y2")] + (["class"] if labels else []) + ["fname"]
    rows = [(5, 6, 40, 45, *([number] if labels else []), name) for number, name in enumerate(photos, 1)]
    savemat(path, {"annotations": np.array(rows, dtype=[(name, "O") for name in names])})


@pytest.mark.parametrize("labelled", [True, False])
def test_kaggles_cars(photo: Photo, tmp_path: Path, labelled: bool) -> None:
    """`cars_train/cars_train` beside `car_devkit/devkit`; a test part without labels is left out, with a notice."""
    photos = ["00001.jpg", "00002.jpg"]
    for part in ("cars_train", "cars_test"):
        for name in photos:
            photo(tmp_path / part / part / name)
    devkit = tmp_path / "car_devkit" / "devkit"
    devkit.mkdir(parents=True)
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(["Hummer", "Audi S4"], dtype=object)})
    write_mat(devkit / "cars_train_annos.mat", True, photos)
    write_mat(devkit / "cars_test_annos.mat", False, photos)
    if labelled:
        write_mat(tmp_path / "cars_test_annos_withlabels.mat", True, photos)
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("Hummer", "Audi S4")
    assert [(sample.label, sample.box) for sample in dataset.train] == [(0, (5, 6, 40, 45)), (1, (5, 6, 40, 45))]
    assert len(dataset.test) == 2 * labelled
    assert labelled or any("there is no test part" in notice for notice in dataset.notices)


def test_cars_with_other_numbers(photo: Photo, tmp_path: Path) -> None:
    """`cars_annos.mat` needs the photos of `car_ims`; those of `cars_train` have other numbers."""
    names = ["relative_im_path", *(f"bbox_{side}" for side in ("x1", "y1", "x2", "y2")), "class", "test"]
    rows = [(f"car_ims/00000{number}.jpg", 1, 2, 3, 4, number, number - 1) for number in (1, 2)]
    lists = {"annotations": np.array(rows, dtype=[(name, "O") for name in names])}
    savemat(tmp_path / "cars_annos.mat", {**lists, "class_names": np.array(["Hummer", "Audi S4"], dtype=object)})
    photo(tmp_path / "cars_train" / "cars_train" / "00001.jpg")
    with pytest.raises(DatasetError, match="car_ims, which is missing"):
        load_dataset(tmp_path)
    for number in (1, 2):
        photo(tmp_path / "car_ims" / f"00000{number}.jpg")
    dataset = load_dataset(tmp_path)
    assert [(sample.path.name, sample.label) for sample in dataset.train] == [("000001.jpg", 0)]
    assert [(sample.path.name, sample.label) for sample in dataset.test] == [("000002.jpg", 1)]


def test_kaggles_aircraft(photo: Photo, tmp_path: Path) -> None:
    """The official lists in nested folders precede the tables beside them; the tables alone work as well."""
    data = tmp_path / "fgvc-aircraft-2013b" / "fgvc-aircraft-2013b" / "data"
    for name in ("0001", "0002", "0003"):
        photo(data / "images" / f"{name}.jpg", (80, 70))
    for part, rows in (("train", "0001.jpg,707-320,0"), ("val", "0002.jpg,F/A-18,1"), ("test", "0003.jpg,F/A-18,1")):
        (tmp_path / f"{part}.csv").write_text(f"filename,Classes,Labels\n{rows}\n")
    tables = load_dataset(tmp_path)
    (data / "variants.txt").write_text("707-320\nF/A-18\n")
    (data / "images_variant_trainval.txt").write_text("0001 707-320\n0002 F/A-18\n")
    (data / "images_variant_test.txt").write_text("0003 F/A-18\n")
    for root in (tmp_path, data.parents[1], data.parent, data, data / "images"):
        official = load_dataset(root)
        assert official.labels == tables.labels == ("707-320", "F/A-18")
        assert official.banner == 20
        assert official.marks is None
        assert (official.train, official.test) == (tables.train, tables.test)
    (data / "marks.csv").write_text("class,tail: swept\nF/A-18,1\n707-320,0.5\n")
    marked = load_dataset(tmp_path).marks
    assert marked is not None
    assert marked.table.tolist() == [[0.5], [1]]


@pytest.mark.skipif(REAL is None, reason="FIELDMARK_DATA is not set")
def test_kaggles_cub(tmp_path: Path) -> None:
    """Real lists in nested folders, beside `segmentations` and `attributes.txt`; also named by `images`."""
    real = Path(REAL or "") / "CUB_200_2011_first50"
    root = tmp_path / "CUB_200_2011" / "CUB_200_2011"
    root.mkdir(parents=True)
    for path in real.glob("*.txt"):
        shutil.copy(path, root)
    (root / "images").symlink_to(real / "images")
    segments = tmp_path / "segmentations" / "001.Black_footed_Albatross"
    segments.mkdir(parents=True)
    shutil.copy(next((real / "images").rglob("*.jpg")), segments / "0.png")
    (tmp_path / "attributes.txt").write_text("1 has_bill_shape::curved_(up_or_down)\n")
    expected = load_dataset(real)
    for name in (".", "CUB_200_2011", "CUB_200_2011/CUB_200_2011", "CUB_200_2011/CUB_200_2011/images"):
        dataset = load_dataset(tmp_path / name)
        assert dataset.labels == expected.labels
        assert (len(dataset.train), len(dataset.test)) == (1500, 911)
    (root / "marks.csv").write_text("class,bill: hooked\nBlack footed Albatross,1\n")
    marked = load_dataset(tmp_path)
    assert marked.marks is not None
    assert any("lacks 49 classes" in notice for notice in marked.notices)
    (root / "attributes").symlink_to(real / "attributes")
    with pytest.raises(DatasetError, match=r"not both marks\.csv and the attributes"):
        load_dataset(tmp_path)


def test_a_folder_of_several_data_sets_is_refused(photo: Photo, tmp_path: Path) -> None:
    """The message names them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.csv").write_text("file,class_name\n")
    with pytest.raises(DatasetError, match=r"several data sets: one \(csv\), two \(csv\)"):
        load_dataset(tmp_path)
