"""The first convolution on bytes: four pixels at a time give what one at a time gave."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from model.contract.geometry import Resize
from model.contract.graph import codes_of_best
from model.contract.manifest import synthetic_images
from model.export.export import explainer_of
from model.export.graphs import initializers
from model.export.int8.convolutions import convolutions
from model.export.int8.quantise import quantise
from model.export.int8.stem import can_read_bytes, in_fours
from model.export.running import run, session
from model.export.tracing import trace
from tests.model.export.int8.graphs import Graph
from tests.model.networks import CLASSES, make_manifest, make_small

SIDE = 40


@pytest.mark.parametrize(
    ("kernel", "left", "right"), [(3, 1, 1), (3, 1, 0), (3, 0, 1), (7, 3, 3), (2, 0, 0), (5, 2, 1)]
)
def test_four_pixels_at_a_time_make_two_cells(kernel: int, left: int, right: int) -> None:
    """To the last bit, with whatever lies beside the image."""
    random = np.random.default_rng(kernel)
    weight = random.integers(-127, 128, (5, 3, kernel, kernel)).astype(np.int8)
    image = torch.from_numpy(random.integers(0, 256, (1, 3, SIDE, SIDE)).astype(np.float64))
    pads = (left, right, left, right)
    expected = functional.conv2d(functional.pad(image, pads, value=7.0), torch.from_numpy(weight).double(), stride=2)
    assert expected.shape[2:] == (SIDE // 2, SIDE // 2)
    wide, before, behind = in_fours(weight, left)
    fours = image.permute(0, 2, 3, 1).reshape(1, SIDE, SIDE // 4, 12).permute(0, 3, 1, 2)
    fours = functional.pad(fours, (before, behind, left, right), value=7.0)
    found = functional.conv2d(fours, torch.from_numpy(wide).double(), stride=(2, 1))
    cells = found.permute(0, 2, 3, 1).reshape(1, -1, SIDE // 2, 5).permute(0, 3, 1, 2)
    assert torch.equal(cells[:, :, : SIDE // 2], expected)


@pytest.mark.parametrize(
    ("side", "shape", "attributes", "can"),
    [
        (40, (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, True),
        (40, (4, 3, 7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}, True),
        (40, (4, 3, 3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}, True),
        (42, (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, False),
        (40, (4, 3, 3, 3), {"strides": [2, 2]}, False),
        (40, (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, False),
        (40, (3, 1, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 3}, False),
        (40, (4, 3, 3, 3), {"pads": [2, 2, 2, 2], "strides": [2, 2], "dilations": [2, 2]}, False),
    ],
)
def test_which_convolutions_can(side: int, shape: tuple[int, ...], attributes: dict[str, object], can: bool) -> None:
    """Those of stride 2 that make half as many cells, of sides that four divides."""
    graph = Graph()
    graph.convolve("x", "y", graph.random.normal(size=shape), **attributes)
    assert can_read_bytes(convolutions(graph.model("y"))["y"], side) is can


class _Moves(nn.Module):
    """A network that begins with something else than a convolution of all colours."""

    def __init__(self, *first: nn.Module, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*first, nn.ReLU())
        self.last, self.head = nn.Conv2d(channels, 6, 3, 2), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.last(self.first(x))).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    "network",
    [
        _Moves(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3, 1, 1), channels=8),
        _Moves(nn.Conv2d(3, 3, 3, 2, 1, groups=3), channels=3),
    ],
    ids=["space to depth", "depthwise"],
)
def test_other_beginnings_stay_in_float(network: nn.Module) -> None:
    """Where pixels are moved before the first convolution, or not all colours meet in it, it is not rounded."""
    manifest = make_manifest(resize=Resize(size=SIDE, crop=SIDE))
    explainer = explainer_of(network.eval(), manifest, "last")
    images, plain = synthetic_images(0, 4, SIDE), trace(explainer, SIDE)
    rounded = quantise(plain, explainer, images)
    best, none = codes_of_best(len(images), CLASSES)
    found, expected = (run(session(model.SerializeToString()), images, best, none) for model in (rounded, plain))
    assert 0 < np.abs(found["logits"] - expected["logits"]).max() < 0.05


def test_bytes_give_what_pixels_gave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a mean and a range that rounding keeps, answers are the same to the last bit, in batches of any size."""
    manifest = make_manifest(resize=Resize(size=SIDE, crop=SIDE), mean=(128 / 255,) * 3, std=(0.2, 0.25, 0.3))
    explainer = explainer_of(make_small(), manifest, "last")
    explainer.classifier.layers = explainer.classifier.layers[:1]
    images = np.concatenate([synthetic_images(seed, 4, SIDE) for seed in range(3)])
    images[0, :8], images[0, 8:16] = 0, 255
    bytes_read = quantise(trace(explainer, SIDE), explainer, images)
    monkeypatch.setattr("model.export.int8.quantise.read_bytes", lambda *rest: None)
    pixels_read = quantise(trace(explainer, SIDE), explainer, images)
    best, none = codes_of_best(len(images), CLASSES)
    found, expected = (
        run(session(model.SerializeToString()), images, best, none) for model in (bytes_read, pixels_read)
    )
    assert {np.dtype(np.uint8)} == {
        numpy_helper.to_array(tensor).dtype for name, tensor in initializers(bytes_read).items() if "before" in name
    }
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    onnx.checker.check_model(bytes_read)
