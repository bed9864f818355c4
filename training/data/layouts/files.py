"""The content of a folder of photos: photos, other files, and files of the operating system.

A photo is a file that the decoder reads, recognised by its suffix, or by its first bytes if the suffix is unknown. All
other files are counted and reported.
"""

import contextlib
import mimetypes
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from model.photo.errors import PhotoError
from model.photo.formats import allowed_format
from model.photo.limits import ImageLimits
from training.errors import DatasetError

_PHOTOS = ".jpg .jpeg .jpe .jfif .jif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs"
PHOTO_SUFFIXES = frozenset(_PHOTOS.split())
"""Suffixes of photos: if such a file is damaged, it is reported, never skipped silently."""
TIFF_SUFFIXES = frozenset({"", ".tif", ".tiff"})
"""Suffixes of TIFF photos: raw files also begin as a TIFF does, with a thumbnail first."""
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw "
    ".nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
_OTHER = ".heic .heif .hif .jxl .jp2 .j2k .jpx .psd .svg .exr .hdr .qoi .xcf .djvu .wdp .jxr"
PICTURE_SUFFIXES = frozenset(_RAW.split()) | frozenset(_OTHER.split()) | frozenset(Image.registered_extensions())
"""Suffixes of all pictures, whether decoded here or not."""
HEAD = 512
"""Bytes that are read to recognise a format."""
MARKS = "marks.csv"
"""Table of the classes' marks, beside the class folders; read by itself."""
TAXONOMY = "taxonomy.csv"
"""Table of the taxa to which the classes belong, likewise."""
_SYSTEM = {"__macosx", "__pycache__", "lost+found", "system volume information", "thumbnails", "thumbnail"}
_SYSTEM_STARTS = (".", "@", "$", "~", "#recycle", "#snapshot")


@dataclass(frozen=True)
class Tree:
    """A folder with its visible content.

    Attributes:
        path: of the folder.
        photos: directly in it, in order.
        folders: directly in it, in order, without hidden ones and the system's.
        others: files directly in it that are no photos, by suffix.
        hidden: names of hidden folders and pictures in it, which are skipped.
    """

    path: Path
    photos: tuple[Path, ...] = ()
    folders: tuple["Tree", ...] = ()
    others: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)

    def walk(self) -> Iterator["Tree"]:
        """Yield this folder and those at every depth below it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()

    def all_photos(self) -> list[Path]:
        """Return the photos at every depth, in order."""
        return sorted(photo for tree in self.walk() for photo in tree.photos)

    def with_photos(self) -> list["Tree"]:
        """Return the folders directly below that contain a photo at any depth."""
        return [folder for folder in self.folders if any(tree.photos for tree in folder.walk())]


def read_tree(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Tree:
    """Return the content of a folder; a link back to a folder above it is not followed.

    Args:
        folder: to read.
        above: device and inode of the folders above it.

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
        elif path.name in (MARKS, TAXONOMY):
            continue
        elif is_system(path.name):
            if is_picture(suffix := path.suffix.lower()):  # other hidden files are of no interest
                tree.hidden[f"hidden {suffix}"] += 1
        elif is_photo(path):
            photos.append(path)
        else:
            tree.others[path.suffix.lower() or "without suffix"] += 1
    return Tree(folder, tuple(photos), tuple(folders), tree.others, tree.hidden)


def folders_below(folder: Path, depth: int = 4) -> Iterator[tuple[Path, int]]:
    """Yield a folder and those below it with their level, level by level and in order.

    Hidden folders, the system's and unreadable ones are left out.

    Args:
        folder: level 0.
        depth: largest level.
    """
    queue = deque([(folder, 0)])
    while queue:
        at, level = queue.popleft()
        yield at, level
        if level < depth:
            with contextlib.suppress(OSError), os.scandir(at) as entries:
                names = sorted(entry.name for entry in entries if not is_system(entry.name) and entry.is_dir())
                queue.extend((at / name, level + 1) for name in names)


def is_system(name: str) -> bool:
    """Whether a name is hidden, or one that systems, viewers and notebooks use for their own files."""
    return name.lower().startswith(_SYSTEM_STARTS) or name.lower() in _SYSTEM


def is_photo(path: Path) -> bool:
    """Whether the decoder reads a file, by its suffix or its first bytes."""
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
    """Return notices of the files that are not read."""
    folders = [folder for tree in trees for folder in tree.walk()]
    others = sum((folder.others for folder in folders), Counter[str]())
    hidden = sum((folder.hidden for folder in folders), Counter[str]())
    notices = []
    if others:
        notices.append(f"{others.total()} files are left aside, as they cannot be read as photos: {counted(others)}")
    if hidden:
        notices.append(f"hidden files and the system's own folders are skipped: {counted(hidden)}")
    return notices


def counted(found: Counter[str], most: int = 8) -> str:
    """Return `12 .dng, 3 .mov`, the most frequent first."""
    named = [f"{count} {name}" for name, count in found.most_common(most)]
    return ", ".join([*named, "…"] if len(found) > most else named)
