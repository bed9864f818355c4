"""Names of classes: how they are shown, and what is refused when the data set is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.datasets import load_dataset
from training.data.layouts.labels import shown_labels
from training.errors import DatasetError

Photo = Callable[..., Path]
PERSIAN = "می‌خورم"  # written with a zero-width joiner, as every text in Persian is
FAMILY = "👨‍👩‍👧"


def classes(photo: Photo, root: Path, *names: str) -> Path:
    """Write two photos for each class."""
    for name in names:
        for number in range(2):
            photo(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("001.Black_footed_Albatross", "002.a_b"), ("Black footed Albatross", "a b")),
        (("911_Carrera", "718_Cayman"), ("911 Carrera", "718 Cayman")),
        (("911.Carrera", "718.Cayman"), ("911.Carrera", "718.Cayman")),
        (("12", "707-320"), ("12", "707-320")),
        ((PERSIAN, FAMILY), (PERSIAN, FAMILY)),
        (("a\u00a0b", "c\u202f d"), ("a b", "c d")),
        (("001.same", "002.same"), ("001.same", "002.same")),
        (("e\u0301", "x"), ("\u00e9", "x")),
    ],
)
def test_labels_are_shown_for_people(names: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """Underscores and every kind of blank become spaces; only CUB's running number is removed."""
    assert shown_labels(names, names) == labels


def test_persian_and_emoji_are_classes(photo: Photo, tmp_path: Path) -> None:
    """The labels of the data set are valid in the manifest."""
    from model.contract.labels import label_fault

    labels = load_dataset(classes(photo, tmp_path, PERSIAN, FAMILY, "x")).labels
    assert set(labels) == {PERSIAN, FAMILY, "x"}
    assert [label_fault(label) for label in labels] == [None] * 3


@pytest.mark.parametrize(
    ("name", "fault"),
    [("a\nb", "line break"), ("a\u2028b", "line break"), ("a\x07b", "control"), ("\u200b", "nothing")],
)
def test_an_unprintable_name_is_refused_with_its_folder(photo: Photo, tmp_path: Path, name: str, fault: str) -> None:
    """It is refused when the data set is read, not at the export after hours of training."""
    with pytest.raises(DatasetError, match=fault) as caught:
        load_dataset(classes(photo, tmp_path, name, "x"))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("pair", [("robin", "Robin"), ("a b", "a_b"), ("a\u00a0b", "a b"), ("می‌خورم", "میخورم")])
def test_names_that_look_alike_are_refused_with_both(photo: Photo, tmp_path: Path, pair: tuple[str, str]) -> None:
    """They differ by blanks, case or invisible characters."""
    with pytest.raises(DatasetError, match="differ by blanks") as caught:
        load_dataset(classes(photo, tmp_path, *pair))
    assert all(repr(name) in str(caught.value) for name in pair)


def test_cubs_classes_are_read_by_number(cub_like: Path, tmp_path: Path) -> None:
    """The order of the lines does not matter; a missing or doubled number is named."""
    for path in cub_like.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "images").symlink_to(cub_like / "images")
    lists, lines = tmp_path / "classes.txt", (cub_like / "classes.txt").read_text().splitlines()
    lists.write_text("\n".join(reversed(lines)))
    mixed, plain = load_dataset(tmp_path), load_dataset(cub_like)
    assert (mixed.labels, [s.label for s in mixed.train]) == (plain.labels, [s.label for s in plain.train])
    lists.write_text((cub_like / "classes.txt").read_text().replace("003.", "777."))
    assert load_dataset(tmp_path).labels == plain.labels
    lists.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DatasetError, match="line 4: 1 occurs twice"):
        load_dataset(tmp_path)
    lists.write_text("\n".join([*lines[:2], "7 other"]))
    with pytest.raises(DatasetError, match=r"classes.txt lacks class 3"):
        load_dataset(tmp_path)
