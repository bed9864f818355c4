"""Filling removed pixels in: against the linear system written out and solved by scipy."""

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from training.evaluation.maps.imputation import NOISE, impute

WEIGHTS = {(r, c): 1 / 6 if r * c == 0 else 1 / 12 for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)}


def solved(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Return an image (h, w) whose removed pixels are the weighted means of their neighbours inside the image."""
    height, width = image.shape
    number = {place: index for index, place in enumerate(zip(*np.nonzero(removed), strict=True))}
    system, right = lil_matrix((len(number), len(number))), np.zeros(len(number))
    for (row, column), index in number.items():
        for (down, across), weight in WEIGHTS.items():
            place = (row + down, column + across)
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            system[index, index] += weight
            if place in number:
                system[index, number[place]] -= weight
            else:
                right[index] += weight * image[place]
    filled = image.copy()
    filled[removed] = spsolve(system.tocsc(), right)
    return filled


def scene(size: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image with edges and texture, (1, 3, S, S), and removed blobs that cover this share of it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([200 * x, 120 * (y > 0.4) + 60 * (x > 0.7), 255 * np.abs(x - y)]) + rng.normal(0, 5, (size, size))
    coarse = torch.from_numpy(rng.random((1, 1, 6, 6)).astype(np.float32))
    height = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")[0]
    return torch.from_numpy(image.astype(np.float32))[None], height > height.quantile(1 - share)


@pytest.mark.parametrize("size", [32, 45, 64])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_linear_system_is_solved(size: int, share: float) -> None:
    """Also where sides are odd: within a level or so of scipy's solution of the same system."""
    image, removed = scene(size, share)
    expected = np.stack([solved(channel.numpy(), removed[0].numpy()) for channel in image[0]])
    error = impute(image, removed)[0].numpy() - expected
    assert np.sqrt(np.square(error[:, removed[0]]).mean()) < 1.5
    np.testing.assert_allclose(error[:, ~removed[0]], 0, atol=1e-4)


def test_a_plane_is_its_own_mean() -> None:
    """A hole in a slope is filled with the slope."""
    slope = torch.arange(64.0).expand(1, 3, 64, 64)
    removed = torch.zeros(1, 64, 64, dtype=torch.bool)
    removed[:, 20:40, 20:40] = True
    torch.testing.assert_close(impute(slope, removed), slope, atol=0.5, rtol=0)


def test_nothing_left_becomes_black() -> None:
    """All removed, or none: no division by zero; what was kept stays to the bit."""
    image, _ = scene(32, 0.5)
    everything = torch.ones(1, 32, 32, dtype=torch.bool)
    assert bool((impute(image, everything) == 0).all())
    assert torch.equal(image, impute(image, ~everything))


def test_images_do_not_mix_and_threads_are_restored() -> None:
    """Each image of a batch gets what it gets alone, and torch keeps its threads."""
    image, removed = scene(40, 0.5)
    other = image.flip(-1)
    threads = torch.get_num_threads()
    both = impute(torch.cat([image, other]), torch.cat([removed, ~removed]))
    torch.testing.assert_close(both, torch.cat([impute(image, removed), impute(other, ~removed)]))
    assert threads == torch.get_num_threads()


def test_noise_is_small_repeats_and_stays_in_the_hole() -> None:
    """Seeded, of the documented deviation, on removed pixels alone."""
    image, removed = scene(64, 0.5)
    noisy, again = (impute(image, removed, torch.Generator().manual_seed(1)) for _ in range(2))
    noise = (noisy - impute(image, removed)).permute(0, 2, 3, 1)
    assert torch.equal(noisy, again)
    assert float(noise[removed].std()) == pytest.approx(NOISE, rel=0.05)
    assert bool((noise[~removed] == 0).all())
