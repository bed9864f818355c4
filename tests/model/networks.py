"""Small networks and what is needed to export them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from model.manifest import Layer, Manifest, Resize, synthetic_images
from model.network import Network, NetworkConfig, build_network
from model.parity import ParityReport

SIZE, CLASSES = 64, 5


def make_network(backbone: str = "squeezenet1_1", attention: str = "guided", **options: object) -> Network:
    """Return a network with random weights whose batch norms have seen images, so that its numbers are sane."""
    torch.manual_seed(7)
    network = build_network(NetworkConfig(backbone, attention, CLASSES, **options))  # type: ignore[arg-type]
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


@dataclass(frozen=True)
class Exported:
    """A network, its file, and the file opened."""

    network: Network
    path: Path
    report: ParityReport
    runtime: onnxruntime.InferenceSession
    images: npt.NDArray[np.uint8]
