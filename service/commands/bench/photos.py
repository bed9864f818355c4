"""Photos to send: real ones scaled to a size, or synthetic ones."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from model.photo.decode import decode_image
from model.photo.errors import PhotoError
from service.errors import of_photo

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
JPEG_QUALITY = 90


def synthetic_photo(width: int, height: int, seed: int = 0) -> bytes:
    """Return a JPEG that decodes and compresses about like a photo: smooth shapes with fine grain."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = source.normal(0, 6, (height, width, 1))
    return _jpeg(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)))


def photos_of_size(paths: Sequence[Path], size: tuple[int, int]) -> list[bytes]:
    """Return photos as JPEG, cropped to the proportions of a size and scaled to it."""
    return [_jpeg(ImageOps.fit(_decode(path), size, Image.Resampling.LANCZOS)) for path in paths]


def _decode(path: Path) -> Image.Image:
    try:
        return decode_image(path.read_bytes()).image
    except PhotoError as error:
        raise of_photo(error) from error


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def find_photos(paths: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` image files of files and folders, evenly spread."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in PHOTO_SUFFIXES)
        else:
            found.append(path)
    step = max(1, len(found) // most)
    return found[::step][:most]


def write_photos(folder: Path, sources: Sequence[Path], size: tuple[int, int], count: int = 8) -> list[Path]:
    """Write photos of one size into a folder: real ones where there are any, else synthetic ones."""
    if sources:
        encoded = photos_of_size(sources[:count], size)
    else:
        encoded = [synthetic_photo(*size, seed=seed) for seed in range(count)]
    paths = []
    for index, data in enumerate(encoded):
        path = folder / f"{size[0]}x{size[1]}-{index}.jpg"
        path.write_bytes(data)
        paths.append(path)
    return paths
