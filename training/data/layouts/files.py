"""What lies in a folder of photos: which files are photos, which are not, and what the system put there.

A photo is what the decoder reads: by its suffix, or by its first bytes where the suffix says nothing. The rest is
counted, so that nothing vanishes without a word.
"""

import mimetypes
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from model.photo.errors import PhotoError
from model.photo.formats import allowed_format
from model.photo.limits import ImageLimits
from training.errors import DatasetError

_PHOTOS = ".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs"
PHOTO_SUFFIXES = frozenset(_PHOTOS.split())
"""Files that are photos by their name: what is wrong with their bytes is said, never passed over."""
TIFF_SUFFIXES = frozenset({"", ".tif", ".tiff"})
"""Cameras' raw files begin as a TIFF does, and what lies first in them is a thumbnail."""
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw "
    ".nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
_OTHER = ".heic .heif .hif .jxl .jp2 .j2k .jpx .psd .svg .exr .hdr .qoi .xcf .djvu .wdp .jxr"
PICTURE_SUFFIXES = frozenset(_RAW.split()) | frozenset(_OTHER.split()) | frozenset(Image.registered_extensions())
"""Pictures of any kind, decoded here or not."""
HEAD = 512
"""Bytes that a format is recognised by."""
_SYSTEM = {"__macosx", "__pycache__", "lost+found", "system volume information", "thumbnails", "thumbnail"}
_SYSTEM_STARTS = (".", "@", "$", "~", "#recycle", "#snapshot")


@dataclass(frozen=True)
class Tree:
    """A folder with what is visible below it.

    Attributes:
        path: of the folder.
        photos: directly in it, in order.
        folders: below it, in order; hidden ones and the system's are left out.
        others: files directly in it that are no photos, by suffix.
        hidden: names of folders and pictures in it that were passed over.
    """

    path: Path
    photos: tuple[Path, ...] = ()
    folders: tuple["Tree", ...] = ()
    others: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)

    def all_photos(self) -> list[Path]:
        """Return the photos at every depth, in order."""
        return sorted([*self.photos, *(photo for folder in self.folders for photo in folder.all_photos())])

    def with_photos(self) -> list["Tree"]:
        """Return the folders below that hold a photo at some depth."""
        return [folder for folder in self.folders if folder.has_photos()]

    def has_photos(self) -> bool:
        """Whether a photo lies here or deeper."""
        return bool(self.photos) or any(folder.has_photos() for folder in self.folders)

    def all_others(self) -> Counter[str]:
        """Return what is no photo, at every depth."""
        return sum((folder.all_others() for folder in self.folders), Counter(self.others))

    def all_hidden(self) -> Counter[str]:
        """Return what was passed over, at every depth."""
        return sum((folder.all_hidden() for folder in self.folders), Counter(self.hidden))


def read_tree(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Tree:
    """Return what lies below a folder; a link that leads back into a folder above it is not followed.

    Args:
        folder: to look into.
        above: device and number of the folders on the way.

    Raises:
        DatasetError: a folder cannot be read.
    """
    try:
        stat = folder.stat()
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror}") from error
    here = (stat.st_dev, stat.st_ino)
    tree = Tree(folder)
    photos: list[Path] = []
    folders: list[Tree] = []
    for path in map(folder.joinpath, names) if here not in above else ():
        if path.is_dir():
            if is_system(path.name):
                tree.hidden[path.name] += 1
            else:
                folders.append(read_tree(path, above | {here}))
        elif not path.is_file():
            tree.others["broken links"] += 1
        elif is_system(path.name):
            if is_picture(suffix := path.suffix.lower()):  # only what could be taken for a photo is worth a word
                tree.hidden[f"hidden {suffix}"] += 1
        elif is_photo(path):
            photos.append(path)
        else:
            tree.others[path.suffix.lower() or "without suffix"] += 1
    return Tree(folder, tuple(photos), tuple(folders), tree.others, tree.hidden)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders directly below that are neither hidden nor the system's, in order; none where unreadable."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not is_system(entry.name) and entry.is_dir())
    except OSError:
        return []


def is_system(name: str) -> bool:
    """Whether a name is hidden, or one that systems, viewers and notebooks give to what they keep for themselves."""
    return name.lower().startswith(_SYSTEM_STARTS) or name.lower() in _SYSTEM


def is_photo(path: Path) -> bool:
    """Whether the decoder reads such a file, by its suffix, or by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            format_ = allowed_format(file.read(HEAD), ImageLimits())
    except (PhotoError, OSError):
        return False
    return format_ != "TIFF" or suffix in TIFF_SUFFIXES


def is_picture(suffix: str) -> bool:
    """Whether files of that suffix are pictures of any kind, decoded here or not."""
    kind = mimetypes.guess_type(f"x{suffix}")[0] or ""
    return suffix in PICTURE_SUFFIXES or kind.startswith("image/")


def passed_over(trees: Iterable[Tree]) -> list[str]:
    """Return what is to be said of files that were not read."""
    trees = list(trees)
    others = sum((tree.all_others() for tree in trees), Counter[str]())
    hidden = sum((tree.all_hidden() for tree in trees), Counter[str]())
    notices = []
    if others:
        notices.append(f"{others.total()} files are left aside, no photos that can be read: {counted(others)}")
    if hidden:
        notices.append(f"hidden files and the system's own folders are passed over: {counted(hidden)}")
    return notices


def counted(found: Counter[str], most: int = 8) -> str:
    """Return `12 .dng, 3 .mov`, the most frequent first."""
    named = [f"{count} {name}" for name, count in found.most_common(most)]
    return ", ".join([*named, "…"] if len(found) > most else named)
