"""Maps that know nothing of the photo: what any figure of a map has to beat.

Random weights are the fourth such row; they need a network and come from `training.evaluation.maps.sanity`.
"""

import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.float32]

SIGMA = 0.25
"""Of the centred Gaussian, as a part of the image's side."""


def chance_maps(count: int, grid: tuple[int, int], size: int, seed: int = 0) -> dict[str, Maps]:
    """Return maps for `count` photos by the name of their row.

    Args:
        count: n.
        grid: (h, w) of the network's maps, which the random ones share.
        size: side S of the network's input, pixels: the grid of the others, so that they sit exactly in the middle.
        seed: of the random maps.

    Returns:
        `centred_gaussian`, (n, S, S); `centre`, one at the middle and zero elsewhere, (n, S, S); `random`, uniform in
        [0, 1), (n, h, w).
    """
    centre = np.zeros((size, size), dtype=np.float32)
    centre[size // 2, size // 2] = 1
    return {
        "centred_gaussian": np.broadcast_to(centred_gaussian(size), (count, size, size)),
        "centre": np.broadcast_to(centre, (count, size, size)),
        "random": np.random.default_rng(seed).random((count, *grid), dtype=np.float32),
    }


def centred_gaussian(size: int) -> Maps:
    """Return a Gaussian in the middle of a square of `size` pixels, 1 at the centre."""
    distance = (np.arange(size) + 0.5) / size - 0.5
    profile = np.exp(-0.5 * (distance / SIGMA) ** 2)
    return np.outer(profile, profile).astype(np.float32)
