"""A few photos as the network sees them, as arrays: for the checks of an export and for its calibration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.contract.geometry import Resize
from model.files import replacing
from training.data.samples import Sample
from training.data.store import as_served

PARITY_IMAGES = "parity.npz"
"""In a run's folder: real images, prepared, for the parity check of its export."""
NUM_PARITY_IMAGES = 14


def prepared_images(samples: Sequence[Sample], resize: Resize, banner: int) -> npt.NDArray[np.uint8]:
    """Return photos as the network sees them, (n, S, S, 3)."""
    preparation = as_served(resize, banner)
    return np.stack([preparation.load(sample.path)[0] for sample in samples])


def parity_images(samples: Sequence[Sample], resize: Resize, banner: int) -> npt.NDArray[np.uint8]:
    """Return a few photos, spread over the samples, as the network sees them, (n, S, S, 3)."""
    count = min(NUM_PARITY_IMAGES, len(samples))
    chosen = [samples[index * len(samples) // count] for index in range(count)]
    return prepared_images(chosen, resize, banner)


def keep_parity_images(folder: Path, samples: Sequence[Sample], resize: Resize, banner: int) -> None:
    """Write a run's parity images into its folder, so that an export needs no data set."""
    with replacing(folder / PARITY_IMAGES) as file:
        np.savez_compressed(file, images=parity_images(samples, resize, banner))


def kept_parity_images(folder: Path) -> npt.NDArray[np.uint8] | None:
    """Return the parity images in a run's folder, (n, S, S, 3), or None."""
    path = folder / PARITY_IMAGES
    if not path.is_file():
        return None
    images: npt.NDArray[np.uint8] = np.load(path)["images"]
    return images
