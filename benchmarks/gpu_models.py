"""Model files for the GPU benchmark: the same network at several input sizes, in float32 and float16 arithmetic.

Needs torch, onnx and onnxruntime (its float16 converter); the benchmark runs this in a process of its own.

    python benchmarks/gpu_models.py --out DIR [--sizes 224,448] [--backbones mobilenet_v2,resnet50]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, synthetic_images
from model.export.export import export, load_network
from model.network.network import Network, NetworkConfig, build_network
from service.settings import BUNDLED_MODEL


def network_of(backbone: str, bundled: Path) -> tuple[Network, Manifest]:
    """Return the bundled network where it has this backbone, else one with seeded random weights.

    Speed does not depend on the weights; only parity is measured better on trained ones.
    """
    network, manifest = load_network(bundled)
    if manifest.network.get("backbone") == backbone:
        return network, manifest
    torch.manual_seed(0)
    config = NetworkConfig(backbone, "guided", num_classes=manifest.num_classes)
    return build_network(config).eval(), manifest


def sized(manifest: Manifest, name: str, size: int) -> Manifest:
    """Return a draft of the manifest for another input size; the exporter fills in the rest."""
    return Manifest(
        name=name,
        labels=manifest.labels,
        resize=Resize(size=size, crop=size),
        mean=manifest.mean,
        std=manifest.std,
        temperature=manifest.temperature,
        layers=(Layer(name="draft", channels=1, grid=(1, 1)),),
    )


def to_float16(source: Path, target: Path) -> None:
    """Write a file whose arithmetic is float16; inputs and outputs keep to the graph contract."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    converted = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    del converted.metadata_props[:]
    manifest = Manifest.from_metadata(metadata)
    half = manifest.model_copy(update={"precision": "fp16", "weights_dtype": "fp16", "self_check": None})
    onnx.helper.set_model_props(converted, half.to_metadata())
    target.write_bytes(converted.SerializeToString())


def make(backbone: str, size: int, folder: Path, bundled: Path) -> list[Path]:
    """Write the float32 and float16 files of one network at one size."""
    network, manifest = network_of(backbone, bundled)
    full, half = folder / f"{backbone}-{size}-fp32.onnx", folder / f"{backbone}-{size}-fp16.onnx"
    images = synthetic_images(0, 6, size)
    export(network, sized(manifest, f"{backbone}-{size}", size), full, images=images, weights_dtype="fp32")
    to_float16(full, half)
    return [full, half]


def attempt(function: Any, *arguments: Any) -> list[Path]:
    """Return the result of a function; on failure print the reason and continue with the other files."""
    try:
        made: list[Path] = function(*arguments)
    except Exception as error:
        print(f"skipped {arguments[:2]}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        return []
    return made


def main() -> int:
    """Write all files and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", default="224,448")
    parser.add_argument("--backbones", default="mobilenet_v2,resnet50")
    parser.add_argument("--bundled", type=Path, default=next(iter(sorted(BUNDLED_MODEL.glob("*/?.onnx"))), None))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for backbone in options.backbones.split(","):
        for size in options.sizes.split(","):
            for path in attempt(make, backbone, int(size), options.out, options.bundled):
                print(path)
    return 0


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
