"""Recognise which folders are parts of a data set, and which are classes.

Parts are recognised by their names (`Train`, `cars_train`, `validation` …) *and* their content: a part contains class
folders, a class contains photos. If the two disagree, the user must choose by `--layout`.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.layouts.files import Tree, read_tree
from training.errors import DatasetError

PART_WORDS = {
    "train": "train training trainset trainval trn learn learning treino treinamento entrenamiento entrainement "
    "apprentissage addestramento trening lernen",
    "val": "val valid validation validate validating valset dev devel validierung validacion validazione validacao",
    "test": "test testing testset tests tst teste eval evaluation evalset holdout heldout prueba pruebas",
}
"""Part of a data set → its names, in lower case and without accents."""
IMAGE_WORDS = frozenset(["images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "jpgimages"])
"""Names of a folder that contains all class folders, beside masks, lists and texts."""
_WORD_TO_PART = {word: part for part, words in PART_WORDS.items() for word in words.split()}


@dataclass(frozen=True)
class Division:
    """The folders that contain class folders.

    Attributes:
        train: of the training part; several are taken together.
        test: of the test part.
        whole: of a data set without parts; then the others are empty.
        notices: of the choice, to report to the user.
    """

    train: tuple[Tree, ...] = ()
    test: tuple[Tree, ...] = ()
    whole: Tree | None = None
    notices: tuple[str, ...] = ()


def part_of_name(name: str) -> str | None:
    """Return `train`, `val` or `test` as a folder's name says, or None: `Train`, `cars_train`, `02-validation`."""
    plain = unicodedata.normalize("NFKD", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    parts = {_WORD_TO_PART[word] for word in re.findall(r"[a-z]+", plain) if word in _WORD_TO_PART}
    if parts == {"train", "val"}:
        return "train"
    return parts.pop() if len(parts) == 1 else None


def divide(folder: Path, layout: str = "auto") -> Division:
    """Return the folders that contain the class folders of each part.

    Args:
        folder: of the data set.
        layout: `auto`; `classes`: the folders in it are classes; or `train=FOLDER,test=FOLDER`, relative to it.

    Raises:
        DatasetError: the names are ambiguous, or a named folder does not exist.
    """
    if layout == "classes":
        return Division(whole=read_tree(folder))
    if layout != "auto":
        return _named(folder, layout)
    return _recognised(read_tree(folder))


def _named(folder: Path, layout: str) -> Division:
    """Read `train=FOLDER,test=FOLDER`."""
    chosen: dict[str, list[Tree]] = {"train": [], "test": []}
    for item in layout.split(","):
        part, _, name = item.partition("=")
        if part.strip() not in chosen or not name.strip():
            raise DatasetError(f"--layout {layout}: expected auto, classes, or train=FOLDER,test=FOLDER")
        below = folder / name.strip()
        if not below.is_dir():
            raise DatasetError(f"--layout {layout}: {below} is not a folder")
        chosen[part.strip()].append(_unwrapped(read_tree(below)))
    return Division(tuple(chosen["train"]), tuple(chosen["test"]))


def _recognised(tree: Tree) -> Division:
    folders = tree.with_photos()
    if len(folders) == 1 and not tree.photos and _nests(folders[0]):
        return _only(folders[0])
    parts = {folder.path: part_of_name(folder.path.name) for folder in folders}
    named = [folder for folder in folders if parts[folder.path]]
    nested = [folder for folder in named if _nests(folder)]
    if nested:
        return _parts(tree, folders, nested)
    images = [folder for folder in folders if folder.path.name.lower() in IMAGE_WORDS and _nests(folder)]
    if len(images) == 1:
        inner = _recognised(images[0])
        return replace(inner, notices=inner.notices + _beside(folders, images))
    distinct = {parts[folder.path] for folder in named}
    if named and (len(distinct) > 1 or len(named) == len(folders)):
        raise _ask(tree, named, "by their names they are parts of a data set, but they contain no class folders")
    flat = [folder for folder in folders if folder.path.name.lower() in IMAGE_WORDS]
    if flat and len(folders) > 1:
        raise _ask(
            tree, folders, f"{flat[0].path.name} is named like a folder of all photos, but contains no class folders"
        )
    if alike := _alike(folders):
        raise _ask(tree, alike, "they contain folders of the same names")
    return Division(whole=tree)


def _only(folder: Tree) -> Division:
    """Divide the only folder; its name may be that of a part."""
    inner = _recognised(folder)
    part = part_of_name(folder.path.name)
    if part is None or inner.whole is None:
        return inner
    whole = (inner.whole,)
    return Division(whole if part == "train" else (), () if part == "train" else whole, notices=inner.notices)


def _parts(tree: Tree, folders: Sequence[Tree], nested: Sequence[Tree]) -> Division:
    """Return the parts, by names and content."""
    found: dict[str, list[Tree]] = {}
    for folder in nested:
        found.setdefault(str(part_of_name(folder.path.name)), []).append(folder)
    others = [folder for folder in folders if folder not in nested]
    if any(_nests(folder) for folder in others) or (others and len(found) == 1):
        raise _ask(tree, folders, "some are named like parts of a data set, and others are not")
    if twice := next((group for group in found.values() if len(group) > 1), None):
        raise _ask(tree, twice, "they are named like the same part of a data set")
    part = {name: _unwrapped(group[0]) for name, group in found.items()}
    notices = _beside(folders, nested)
    if {"train", "val", "test"} <= part.keys():
        notices += (
            f"{found['val'][0].path} is added to the training part, of which the recipe holds out its own share; "
            f"--layout train={found['train'][0].path.name},test={found['test'][0].path.name} leaves it out",
        )
        return Division((part["train"], part["val"]), (part["test"],), notices=notices)
    if "test" not in part and "val" in part:
        notices += (f"{found['val'][0].path} is the test part",)
        part["test"] = part.pop("val")
    if "val" in part:
        notices += (f"{found['val'][0].path} is left aside; {found['test'][0].path} is the test part",)
    train = (part["train"],) if "train" in part else ()
    return Division(train, (part["test"],) if "test" in part else (), notices=notices)


def _unwrapped(tree: Tree) -> Tree:
    """Return the innermost of folders that contain nothing but the next: `cars_train/cars_train/…`."""
    folders = tree.with_photos()
    while len(folders) == 1 and not tree.photos and _nests(folders[0]):
        tree = folders[0]
        folders = tree.with_photos()
    images = [folder for folder in folders if folder.path.name.lower() in IMAGE_WORDS and _nests(folder)]
    return images[0] if len(images) == 1 and not tree.photos else tree


def _nests(tree: Tree) -> bool:
    """Whether it contains folders with photos."""
    return bool(tree.with_photos())


def _alike(folders: Sequence[Tree]) -> list[Tree]:
    """Return two folders with the same class folders, as parts of a data set with unknown names have."""
    below = {folder.path: {inner.path.name for inner in folder.with_photos()} for folder in folders}
    for number, one in enumerate(folders):
        for other in folders[number + 1 :]:
            shared = below[one.path] & below[other.path]
            if len(shared) > 1 and 2 * len(shared) >= min(len(below[one.path]), len(below[other.path])):
                return [one, other]
    return []


def _beside(folders: Sequence[Tree], taken: Sequence[Tree]) -> tuple[str, ...]:
    rest = [folder for folder in folders if folder not in taken]
    return tuple(f"{folder.path} is left aside, with {len(folder.all_photos())} pictures" for folder in rest)


def _ask(tree: Tree, folders: Sequence[Tree], reason: str) -> DatasetError:
    names = ", ".join(folder.path.name for folder in folders[:4]) + (", …" if len(folders) > 4 else "")
    return DatasetError(
        f"{tree.path}: are {names} classes, or parts of a data set? ({reason}); "
        f"set --layout classes, or --layout train=FOLDER,test=FOLDER"
    )
