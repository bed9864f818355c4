"""Data sets as they are distributed, in small: CUB, Cars, Aircraft, labels.csv, class folders, and their damages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from training.data import store as store_module
from training.data.datasets import load_dataset
from training.data.layouts.places import find_place
from training.data.samples import Dataset, Sample, hold_out, spread
from training.data.store import ImageStore, PhotoFiles, Preparation, as_served, decode_photo, open_store, shrink_to
from training.errors import DatasetError


def photo(path: Path, size: tuple[int, int] = (60, 50), mode: str = "RGB") -> Path:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def copy_lists(source: Path, target: Path) -> Path:
    """Copy a data set's lists and link its images."""
    target.mkdir()
    for path in source.glob("*.txt"):
        (target / path.name).write_text(path.read_text())
    (target / "images").symlink_to(source / "images")
    return target


def test_cub_is_read_as_it_is_distributed(birds: Dataset) -> None:
    """Labels for people, the official division, boxes as corners."""
    assert birds.labels == ("Red Bird", "Green Bird", "Blue Bird")
    assert (len(birds.train), len(birds.test)) == (24, 6)
    assert birds.test[0].box == (10.0, 5.0, 62.0, 57.0)


def test_cub_parts_are_read_where_visible(cub_like: Path, tmp_path: Path) -> None:
    """Parts keep their name; those that cannot be seen have no position."""
    root = copy_lists(cub_like, tmp_path / "cub")
    (root / "parts").mkdir()
    (root / "parts" / "parts.txt").write_text("1 back\n2 beak\n3 left eye\n")
    (root / "parts" / "part_locs.txt").write_text("1 1 12.5 20.0 1\n1 2 0.0 0.0 0\n1 3 30.0 25.0 1\n")
    found = load_dataset(root)
    assert ("back", "beak", "left eye") == found.parts
    assert ((0, 12.5, 20.0), (2, 30.0, 25.0)) == found.train[0].parts
    (root / "parts" / "part_locs.txt").write_text("1 1 12.5 20.0 1\n1 9 30.0 25.0 1\n")
    with pytest.raises(DatasetError, match=r"part_locs.txt, row 2: no such part or place: '9'"):
        load_dataset(root)
    (root / "parts" / "part_locs.txt").write_text("1 1 left 20.0 1\n")
    with pytest.raises(DatasetError, match=r"part_locs.txt, row 1: .*'left'"):
        load_dataset(root)


def test_cub_attributes_are_shares(cub_like: Path, tmp_path: Path) -> None:
    """Percentages become shares; a table of another shape is refused with what was expected."""
    root = copy_lists(cub_like, tmp_path / "cub")
    assert load_dataset(root).attributes is None
    (root / "attributes").mkdir()
    (root / "attributes" / "attributes.txt").write_text("1 has_crown_color::red\n2 has_crown_color::black\n")
    table = root / "attributes" / "class_attribute_labels_continuous.txt"
    table.write_text("80.0 20.0\n0.0 100.0\n50 0\n")
    found = load_dataset(root).attributes
    assert found is not None
    assert ("has_crown_color::red", "has_crown_color::black") == found.names
    assert [[0.8, 0.2], [0, 1], [0.5, 0]] == found.table.tolist()
    for wrong in ("80.0 20.0\n", "80 20\n0 101\n50 0\n", "80 x\n0 1\n0 1\n"):
        table.write_text(wrong)
        with pytest.raises(DatasetError, match=r"class_attribute_labels_continuous.txt"):
            load_dataset(root)


def test_masks_lie_as_the_photos_lie(tmp_path: Path) -> None:
    """`masks/` mirrors `images/`, for a folder named whole or by its images; a photo without a mask has none."""
    for name in ("crow/a", "crow/b", "gull/a", "gull/b"):
        photo = tmp_path / "images" / f"{name}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (len(name), 9, 9)).save(photo)
    mask = tmp_path / "masks" / "crow" / "b.png"
    mask.parent.mkdir(parents=True)
    Image.new("1", (20, 20)).save(mask)
    for root in (tmp_path, tmp_path / "images"):
        found = load_dataset(root)
        masks = {sample.path.stem: sample.mask for sample in (*found.train, *found.test) if sample.label == 0}
        assert {"a": None, "b": mask.resolve()} == {key: path and path.resolve() for key, path in masks.items()}
        assert [f"1 photos have a mask of their object in {tmp_path / 'masks'}"] == [
            notice for notice in found.notices if "masks" in notice
        ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.txt", None, r"images.txt is missing"),
        ("classes.txt", "1 only\n", r"at least two|lacks class 2 of"),
        ("image_class_labels.txt", "1 1\n", "has no line for 29 images"),
        ("bounding_boxes.txt", "1 3.0 4.0\n", r"bounding_boxes.txt, line 1: expected 5 columns"),
        ("bounding_boxes.txt", "1 3.0 x 5 6\n", r"bounding_boxes.txt: could not convert string to float: 'x'"),
        ("images.txt", "1 001.Red_Bird/gone.png\n", r"1 images are missing; first expected: .*gone.png"),
    ],
)
def test_a_damaged_list_is_named(cub_like: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    """With what was expected where."""
    root = copy_lists(cub_like, tmp_path / "cub")
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset(root)


def cars(root: Path) -> Path:
    """Write Stanford Cars' layout: two classes, two images a part."""
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(
        base / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Audi S4"], dtype=object)}
    )
    kind = [(f"bbox_{side}", "O") for side in ("x1", "y1", "x2", "y2")] + [("class", "O"), ("fname", "O")]
    for folder, file in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        rows = [(5, 6, 40, 45, label, photo(base / folder / f"{label}.jpg").name) for label in (1, 2)]
        savemat(base / file, {"annotations": np.array(rows, dtype=kind)})
    return root


def test_cars_are_read_through_torchvision(tmp_path: Path) -> None:
    """Classes from the .mat files, 0-based, with their boxes."""
    dataset = load_dataset(cars(tmp_path))
    assert dataset.labels == ("AM General Hummer", "Audi S4")
    assert [sample.label for sample in dataset.train] == [0, 1]
    assert dataset.test[0].box == (5.0, 6.0, 40.0, 45.0)


def test_a_damaged_mat_file_is_named(tmp_path: Path) -> None:
    """Missing or not a .mat file: the path is in the message."""
    annotations = cars(tmp_path) / "stanford_cars" / "cars_test_annos_withlabels.mat"
    annotations.write_bytes(b"not matlab")
    with pytest.raises(DatasetError, match=r"cars_test_annos_withlabels.mat"):
        load_dataset(tmp_path)
    annotations.unlink()
    with pytest.raises(DatasetError, match=r"cars_test_annos_withlabels.mat is missing"):
        load_dataset(tmp_path)


def test_aircraft_are_read_through_torchvision_and_lose_their_banner(tmp_path: Path) -> None:
    """Variants, trainval, boxes; the bottom 20 rows are cropped off when a photo is decoded."""
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    for name in ("0001", "0002", "0003"):
        photo(data / "images" / f"{name}.jpg", (80, 70))
    (data / "variants.txt").write_text("707-320\nA300B4\n")
    (data / "images_variant_trainval.txt").write_text("0001 707-320\n0002 A300B4\n")
    (data / "images_variant_test.txt").write_text("0003 A300B4\n")
    (data / "images_box.txt").write_text("0001 1 2 60 40\n0003 3 4 70 50\n")
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("707-320", "A300B4")
    assert dataset.test[0].box == (2.0, 3.0, 70.0, 50.0)
    assert decode_photo(dataset.test[0].path, dataset.banner).image.size == (80, 50)
    (data / "images_variant_test.txt").write_text("0003 Concorde\n")
    with pytest.raises(DatasetError, match=r"images_variant_test.txt"):
        load_dataset(tmp_path)


def test_class_folders_are_a_data_set(tmp_path: Path) -> None:
    """With train and test folders, or divided the same way every time; empty classes are left out with a notice."""
    for name in ("a_cat", "b_dog"):
        for number in range(5):
            photo(tmp_path / "flat" / name / f"{number}.jpg")
    (tmp_path / "flat" / "c_empty").mkdir()
    flat = load_dataset(tmp_path / "flat")
    assert flat.labels == ("a cat", "b dog")
    assert len(flat.train) + len(flat.test) == 10
    assert load_dataset(tmp_path / "flat") == flat
    assert any("c_empty" in notice for notice in flat.notices)
    for part, name in (("train", "x"), ("train", "y"), ("test", "y")):
        photo(tmp_path / "split" / part / name / "0.png")
    split = load_dataset(tmp_path / "split")
    assert [sample.label for sample in split.test] == [1]
    assert any("one training image" in notice for notice in split.notices)
    photo(tmp_path / "split" / "test" / "z" / "0.png")
    with pytest.raises(DatasetError, match="lacks: z"):
        load_dataset(tmp_path / "split")


def test_labels_csv_is_a_data_set(tmp_path: Path) -> None:
    """Classes in the order of class_id, the split as written, boxes where given."""
    for name in ("p", "q", "r"):
        photo(tmp_path / "images" / f"{name}.jpg")
    head = "file,class_id,class_name,split,x1,y1,x2,y2\n"
    rows = "p.jpg,9,zebra,train,1,2,3,4\nq.jpg,3,yak,train,,,,\nr.jpg,9,zebra,test,,,,\n"
    (tmp_path / "labels.csv").write_text(head + rows)
    dataset = load_dataset(tmp_path)
    assert find_place(tmp_path).kind == "csv"
    assert dataset.labels == ("yak", "zebra")
    assert (dataset.train[0].box, dataset.train[1].box) == ((1.0, 2.0, 3.0, 4.0), None)
    assert [sample.label for sample in dataset.test] == [1]
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(DatasetError, match="columns file and class_name"):
        load_dataset(tmp_path)
    for row, said in (
        ("q.jpg,3,yak,training,,,,", r"labels\.csv, row 5: column split has 'training'"),
        ("q.jpg,3,yak,train,3,2,1,4", r"labels\.csv, row 5: the box x1,y1,x2,y2 = 3,2,1,4 has no area"),
        ("q.jpg,3,yak,train,1,2,nan,4", r"labels\.csv, row 5: the box .* has no area"),
    ):
        (tmp_path / "labels.csv").write_text(f"{head}p.jpg,9,zebra,train,1,2,3,4\n\n\n{row}\n")
        with pytest.raises(DatasetError, match=said):
            load_dataset(tmp_path)


@pytest.mark.parametrize("content", ["nothing", "one"])
def test_a_folder_without_two_classes_is_refused(tmp_path: Path, content: str) -> None:
    """The message says what was expected."""
    if content == "one":
        photo(tmp_path / "only" / "0.png")
    with pytest.raises(DatasetError, match=r"a folder of images for each class|at least two"):
        load_dataset(tmp_path)


def test_the_held_out_part_is_spread_over_the_classes() -> None:
    """The same images for a seed, about the asked share, and a lone image stays in training."""
    samples = [Sample(Path(f"{label}-{n}"), label) for label, size in enumerate((30, 30, 1)) for n in range(size)]
    kept, held = hold_out(samples, 0.1, seed=0)
    assert sorted(sample.label for sample in held) == [0, 0, 0, 1, 1, 1]
    assert (kept, held) == hold_out(samples, 0.1, seed=0)
    assert held != hold_out(samples, 0.1, seed=1)[1]
    assert hold_out(samples, 0.0, seed=0) == (samples, [])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """Greyscale, transparency, palettes and print colours."""
    suffix = "jpg" if mode == "CMYK" else "png"
    assert decode_photo(photo(tmp_path / f"{mode}.{suffix}", mode=mode)).image.mode == "RGB"


def test_a_store_holds_what_decoding_gives(tmp_path: Path) -> None:
    """Once made it is found again; a changed photo makes a new one; without room, photos are decoded as needed."""
    paths = [photo(tmp_path / f"{number}.png", (40 + number, 30)) for number in range(3)]
    preparation = Preparation("shrink", shrink_to(20))
    store = open_store(paths, preparation, tmp_path / "cache", progress=False)
    files = open_store(paths, preparation, tmp_path / "cache2", max_bytes=10, progress=False)
    assert isinstance(store, ImageStore)
    assert isinstance(files, PhotoFiles)
    for index in range(3):
        assert np.array_equal(store[index][0], files[index][0])
        assert store[index][1] == files[index][1] == (40 + index, 30)
    assert open_store(paths, preparation, tmp_path / "cache", progress=False).key == store.key
    photo(paths[0], (33, 30))
    assert open_store(paths, preparation, tmp_path / "cache", progress=False).key != store.key


def test_what_another_decoder_made_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store depends on the decoder's version, and so do features, which are named by their store's key."""
    paths = [photo(tmp_path / "0.png")]
    preparation = Preparation("shrink", shrink_to(20))
    keys = []
    for version in (store_module.DECODER, store_module.DECODER + 1):
        monkeypatch.setattr(store_module, "DECODER", version)
        stored = open_store(paths, preparation, tmp_path / "cache", progress=False)
        # Features of files that are decoded as needed are named by these.
        assert stored.key == PhotoFiles(paths, preparation).key
        keys.append(stored.key)
    assert keys[0] != keys[1]


def test_a_banner_is_cropped_before_the_photo_is_prepared(tmp_path: Path) -> None:
    """No row of it is seen, not even by the interpolation, and a large JPEG is decoded in full for that."""
    from model.contract.geometry import Resize

    rng = np.random.default_rng(5)
    picture = rng.integers(0, 256, (411, 600, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "whole.jpg", quality=95)
    with Image.open(tmp_path / "whole.jpg") as opened:
        opened.crop((0, 0, 600, 391)).save(tmp_path / "cropped.png")
    for resize in (Resize(size=56, crop=48), Resize(mode="stretch", size=56, crop=48)):
        pixels, size = as_served(resize, banner=20).load(tmp_path / "whole.jpg")
        expected, _ = as_served(resize).load(tmp_path / "cropped.png")
        assert size == (600, 391)
        assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n" + b"\xff" * 60])
def test_every_refusal_names_the_file(tmp_path: Path, content: bytes) -> None:
    """Empty, of another type, broken: the message begins with the path and says why."""
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"zero bytes|This is PDF|broken") as caught:
        decode_photo(path)
    assert str(caught.value).startswith(str(path))


def test_photos_too_large_for_the_service_are_trained_on(tmp_path: Path) -> None:
    """A researcher's flat drawing of 60 million pixels is no bomb; the service would refuse it twice over."""
    path = tmp_path / "large.png"
    Image.new("L", (10_000, 6_000), 90).save(path)
    assert shrink_to(20)(decode_photo(path)).shape == (20, 33, 3)


def test_spread_covers_all() -> None:
    """The first and the last are among them; where there are fewer, all are."""
    assert [0, 5, 10] == spread(range(11), 3)
    assert [0, 1] == spread(range(2), 200)
    assert [] == spread((), 3)
