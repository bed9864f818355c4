"""Small networks and what is needed to export them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Novelty, synthetic_images
from model.contract.marks import write_table
from model.explain.embedding import PrincipalAxes
from model.explain.fitted import Fitted
from model.explain.marks import MarkCalibration
from model.explain.novelty import METHOD, NoveltyFit, root
from model.export.parity import ParityReport
from model.network.network import Network, NetworkConfig, build_network

SIZE, CLASSES = 64, 5


def make_network(backbone: str = "squeezenet1_1", attention: str = "guided", **options: object) -> Network:
    """Return a network with random weights whose batch norms have seen images, so that its numbers are sane."""
    torch.manual_seed(7)
    network = build_network(NetworkConfig(backbone, attention, num_classes=CLASSES, **options))  # type: ignore[arg-type]
    network.train()
    with torch.no_grad():
        for seed in range(8):
            images = torch.from_numpy(synthetic_images(seed, 6, SIZE)).permute(0, 3, 1, 2) / 127.5 - 1
            network(images)
    return network.eval()


def make_manifest(**fields: object) -> Manifest:
    """Return what a caller knows before the export."""
    defaults: dict[str, object] = {
        "name": "tiny",
        "labels": tuple(f"Bird {index}" for index in range(CLASSES)),
        "resize": Resize(size=SIZE + 8, crop=SIZE),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "temperature": 1.7,
        "layers": (Layer(name="unknown", channels=1, grid=(1, 1)),),
    }
    return Manifest.model_validate(defaults | fields)


MARKS = (
    *("crown: yellow", "crown: black", "wing: yellow", "wing: striped", "tail: forked"),
    *("tail: black", "bill: hooked", "bill: short", "back: black", "back: yellow"),
)
"""Names of the A marks of `make_marked`, as a network's config has them."""
MARK_GRID, EMBEDDING = 12, 29
"""Side of the maps' grid, cells, and D."""


def make_marked(
    num_marks: int = len(MARKS), maps: str = "weights", **options: object
) -> tuple[Network, Manifest, Fitted]:
    """Return a network with marks, votes, an embedding and novelty, all random, and what its export needs."""
    names = MARKS[:num_marks]
    network = make_network(
        **{"marks": names, "mark_grid": MARK_GRID, "mark_values": (0, 1), "mark_votes": 0.5} | options
    )
    if network.part_votes is not None:
        nn.init.normal_(network.part_votes.layer.weight, std=0.3)
    table = np.random.default_rng(5).random((CLASSES, num_marks))
    table[1, 2] = np.nan
    listed = [
        {"name": " ".join(reversed(name.split(": "))), "part": name.split(":")[0], "source": name} for name in names
    ]
    marks = {"marks": listed, "table": write_table(table), "grid": (1, 1), "maps": maps}
    calibration = MarkCalibration(torch.rand(num_marks) + 0.5, torch.rand(num_marks) - 0.5)
    directions = torch.linalg.qr(torch.randn(network.in_channels, EMBEDDING)).Q.T
    axes = PrincipalAxes(torch.rand(network.in_channels), directions, num_photos=30)
    facts = Novelty(method=METHOD, threshold=1.5, quantiles=(-4.0, 0.5, 6.0), num_photos=30)
    means = root(torch.rand(CLASSES, network.in_channels))
    novelty = NoveltyFit(means, torch.tensor([0.8, 20.0, 1.5]), torch.tensor([21.0]), facts)
    return network, make_manifest(marks=marks), Fitted(calibration, axes, novelty)


def textbook_map(score: Tensor, feature_map: Tensor) -> Tensor:
    """Return Grad-CAM, (N, h, w), of scores, (N,), computed from a feature map, (N, C, h, w).

    Source: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1-2.
    """
    (gradient,) = torch.autograd.grad(score.sum(), feature_map, retain_graph=True)
    return torch.relu((gradient.mean((2, 3), keepdim=True) * feature_map.detach()).sum(1))


@dataclass(frozen=True)
class Exported:
    """A network, its file, and the file opened."""

    network: Network
    path: Path
    report: ParityReport
    runtime: onnxruntime.InferenceSession
    images: npt.NDArray[np.uint8]


def open_as_users_do(path: Path) -> None:
    """Load a file as plain users of ONNX Runtime do, warnings included."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


class _Residual(nn.Module):
    """A residual added in place, as torchvision's ResNets do."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(width, width, 3, 1, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        convolved: Tensor = self.convolve(x)
        convolved += x
        return torch.relu(convolved)


class SmallNet(nn.Module):
    """A classifier that was not built here, with everything that makes tracing a gradient hard.

    Grouped and strided convolutions, overlapping max-pooling, a residual added in place, an activation in place
    right behind an explained layer, and a module whose padding drops the last column.
    """

    def __init__(self, width: int = 8, groups: int = 2, num_classes: int = CLASSES, pool: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.block = _Residual(width, groups)
        self.second = nn.Conv2d(width, width, 3, 2, 1, bias=False)
        self.pool = nn.MaxPool2d(pool, 2, 1)
        self.last = nn.Conv2d(width, 2 * width, 1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K), of images, (N, 3, S, S)."""
        x = self.block(self.stem(x))
        x = self.last(self.pool(nn.functional.silu(self.second(x))))
        x = nn.functional.relu(x, inplace=True)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


SMALL_LAYERS = ("last", "block", "stem")


def make_small(seed: int = 0, **options: int) -> SmallNet:
    """Return a `SmallNet` whose batch norm has seen images."""
    torch.manual_seed(seed)
    network = SmallNet(**options)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 40, 40))
    return network.eval()
