"""Photos decoded once into a memory-mapped uint8 store, so that the device never waits for decoding.

A store is two files, named by a hash of paths, sizes, modification times, decoder and preparation: `KEY.bytes`, the
pixels of one image after the other, and `KEY.npz`, the offset of each. The index is written last, so a store is whole
or absent. All runs, processes and workers share one copy through the page cache.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from model.contract.geometry import Resize
from model.files import replacing
from model.photo.decode import DECODER, DecodedImage, decode_image, prepare
from model.photo.errors import PhotoError
from model.photo.limits import MIB, ImageLimits
from training.errors import DatasetError

Pixels = npt.NDArray[np.uint8]

FORMAT = 1
"""Version of the two files; their content also depends on `DECODER`."""
LIMITS = ImageLimits(max_pixels=250_000_000, max_decode_bytes=4096 * MIB, shared_bytes=4096 * MIB)
"""A researcher's own photos are trusted: they may be as large as cameras make them."""
CHUNK = 64
MAX_BYTES = 64 * 1024**3
"""Larger data sets are decoded image by image as needed."""


def decode_photo(path: Path, banner: int = 0, *, min_side: int | None = None) -> DecodedImage:
    """Return the upright RGB photo, decoded as the service does.

    Args:
        path: of the file.
        banner: rows to crop off the bottom, pixels.
        min_side: as in `decode_image`; a photo with a banner is decoded in full, so that no part of a row remains.

    Raises:
        DatasetError: not an image, or a damaged one.
    """
    try:
        photo = decode_image(path.read_bytes(), LIMITS, min_side=None if banner else min_side)
    except (PhotoError, OSError) as error:
        raise DatasetError(f"{path} is damaged or no image: {error}") from error
    height = photo.height - banner
    if not banner or height < 1:
        return photo
    return replace(photo, image=photo.image.crop((0, 0, photo.width, height)), height=height)


@dataclass(frozen=True)
class Preparation:
    """The preparation of a photo before it is stored.

    Attributes:
        name: describes `apply`; part of the store's key.
        apply: converts the decoded photo to the stored pixels, (h, w, 3).
        banner: rows cropped off the bottom first, pixels.
        min_side: as in `decode_image`.
    """

    name: str
    apply: Callable[[DecodedImage], Pixels]
    banner: int = 0
    min_side: int | None = None

    def load(self, path: Path) -> tuple[Pixels, tuple[int, int]]:
        """Return the prepared pixels (h, w, 3) and the photo's own (width, height) before preparation."""
        photo = decode_photo(path, self.banner, min_side=self.min_side)
        return self.apply(photo), (photo.width, photo.height)


def as_served(resize: Resize, banner: int = 0) -> Preparation:
    """Return the service's own preparation of a photo for the network, (S, S, 3).

    Args:
        resize: the manifest's geometry.
        banner: rows cropped off the bottom first, pixels.
    """
    return Preparation(f"served {resize!r}", partial(prepare, resize=resize), banner, resize.size)


def shrink_to(side: int) -> Callable[[DecodedImage], Pixels]:
    """Return a function that scales a photo down until its shorter side is `side` pixels; never up."""
    return partial(_shrink, side=side)  # workers are sent it, so it is no inner function


def _shrink(photo: DecodedImage, side: int) -> Pixels:
    image = photo.image
    shorter = min(image.size)
    if shorter > side:
        width, height = (max(1, round(length * side / shorter)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


class ImageStore:
    """A complete store; every process opens its own map of the same file."""

    def __init__(self, base: Path) -> None:
        index = np.load(base.with_suffix(".npz"))
        self.key = base.name
        self._path = base.with_suffix(".bytes")
        self._offsets: npt.NDArray[np.int64] = index["offsets"]
        self._shapes: npt.NDArray[np.int64] = index["shapes"]
        self.sizes: npt.NDArray[np.int64] = index["sizes"]
        self._map: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> tuple[Pixels, tuple[int, int]]:
        """Return the prepared pixels (h, w, 3), read-only, and the photo's own (width, height)."""
        if self._map is None:
            self._map = np.memmap(self._path, dtype=np.uint8, mode="r")
        height, width = self._shapes[index]
        begin = self._offsets[index]
        pixels = self._map[begin : begin + height * width * 3].reshape(height, width, 3)
        return pixels, (int(self.sizes[index][0]), int(self.sizes[index][1]))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None}


class PhotoFiles:
    """Like a store, but decoded at every access: for data sets that do not fit."""

    def __init__(self, paths: Sequence[Path], preparation: Preparation) -> None:
        self._paths = list(paths)
        self._preparation = preparation
        self.key = _key(paths, preparation)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Pixels, tuple[int, int]]:
        """Return the prepared pixels (h, w, 3) and the photo's own (width, height)."""
        return self._preparation.load(self._paths[index])


Photos = ImageStore | PhotoFiles
"""Prepared photos, by index: pixels (h, w, 3) and the photo's own (width, height)."""


def cache_folder() -> Path:
    """Return the folder of the stores: `FIELDMARK_CACHE`, else fieldmark's part of the user's cache folder."""
    if folder := os.environ.get("FIELDMARK_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fieldmark"
    except RuntimeError as error:  # a user without a home, as in containers
        raise DatasetError("there is no home folder to keep decoded photos in: set one by --cache") from error


def open_store(
    paths: Sequence[Path], preparation: Preparation, folder: Path, *, max_bytes: int = MAX_BYTES, progress: bool = True
) -> Photos:
    """Return the store of these photos; make it if it does not exist.

    Args:
        paths: of the photos, in the order of the store.
        preparation: done to each.
        folder: where stores are kept.
        max_bytes: limit of a new store; so is four fifths of the free disk space.
        progress: show a bar while decoding.

    Returns:
        The store, or the files, decoded as needed, if the store would not fit.

    Raises:
        DatasetError: a photo is damaged; `training.data.check.examine` lists all of them.
    """
    base = folder / _key(paths, preparation)
    if base.with_suffix(".npz").is_file() and base.with_suffix(".bytes").is_file():
        return ImageStore(base)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        limit = min(max_bytes, int(shutil.disk_usage(folder).free * 0.8))
        _write(paths, preparation, base, limit, progress)
    except OSError:  # too large, or a read-only or full disk: slower, not wrong
        return PhotoFiles(paths, preparation)
    return ImageStore(base)


def _write(paths: Sequence[Path], preparation: Preparation, base: Path, limit: int, progress: bool) -> None:
    """Write a store, whole or not at all.

    Raises:
        DatasetError: a photo is damaged.
        OSError: the store would exceed the limit, or cannot be written.
    """
    shapes: list[tuple[int, ...]] = []
    sizes: list[tuple[int, int]] = []
    written = 0
    bar = tqdm(total=len(paths), desc="decoding once", unit="img", disable=None if progress else True, leave=False)
    with replacing(base.with_suffix(".bytes")) as file, ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for begin in range(0, len(paths), CHUNK):
            for pixels, size in pool.map(preparation.load, paths[begin : begin + CHUNK]):
                file.write(pixels.tobytes())
                shapes.append(pixels.shape[:2])
                sizes.append(size)
                written += pixels.nbytes
                bar.update()
            if written / len(shapes) * len(paths) > limit:
                raise OSError(f"the store would exceed {limit} bytes")
    lengths = np.array(shapes, np.int64).reshape(-1, 2).prod(axis=1) * 3
    with replacing(base.with_suffix(".npz")) as file:
        np.savez(file, offsets=np.cumsum(lengths) - lengths, shapes=np.array(shapes), sizes=np.array(sizes))


def _key(paths: Sequence[Path], preparation: Preparation) -> str:
    """Return the name of a store: a hash of its content."""
    digest = hashlib.sha256(f"{FORMAT}:{DECODER}:{preparation.name}:{preparation.banner}".encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DatasetError(f"{path} is missing") from error
        digest.update(f"\n{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]
