"""The manifest inside the ONNX file: what an exported model says about itself.

One file is the model: everything a server needs besides the weights is in `metadata_props` under
`MANIFEST_KEY` as JSON. This module is free of torch, so that the service can read it.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.contract.geometry import Resize
from model.contract.labels import label_fault

MANIFEST_KEY = "fieldmark.manifest"
SCHEMA_VERSION = 1

Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]


class ManifestError(ValueError):
    """The file has no manifest, or one that this version cannot trust; the message says why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Layer(_Frozen):
    """A feature map that Grad-CAM can explain.

    Attributes:
        name: module path inside the network; requests can select the layer by it.
        channels: C of the feature map.
        grid: (h, w) of the map at the network's input size, cells.
    """

    name: str
    channels: int = Field(ge=1)
    grid: tuple[int, int]


class Provenance(_Frozen):
    """Where the weights come from: enough to reproduce them.

    Attributes:
        dataset: name of the data set and of its part.
        num_train: training images.
        recipe: every setting of the run, as the checkpoint carried it.
        seed: of the run; None for a network that was not trained here.
        commit: of this project at training time, or `unknown`.
        created: ISO date of the export, UTC.
        licence: what the data and the starting weights allow.
        tools: versions of torch, torchvision and onnx that wrote the file.
    """

    dataset: str = "unknown"
    num_train: int | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    commit: str = "unknown"
    created: str = ""
    licence: str = ""
    tools: dict[str, str] = Field(default_factory=dict)


class SelfCheck(_Frozen):
    """Expected logits for the synthetic images of a seed: they show that a loaded file computes as exported.

    Attributes:
        seed: of `synthetic_images`.
        logits: expected, one row an image, (n, K).
        tolerance: largest absolute difference of the same model (providers round differently).
    """

    seed: int
    logits: tuple[tuple[Finite, ...], ...]
    tolerance: float = Field(gt=0, allow_inf_nan=False)


class Manifest(_Frozen):
    """Everything a server or a person needs to know about an exported model.

    Attributes:
        schema_version: of this class; a newer file is refused.
        name: of the model, used in addresses.
        labels: of the K classes in the order of the logits, as shown to people; unique.
        resize: geometry from image to input.
        mean: subtracted inside the graph after scaling to [0, 1], RGB.
        std: divided by inside the graph, RGB.
        temperature: probabilities = softmax(logits / temperature).
        network: what `model.network` needs to build the network again; empty for a foreign module.
        attention: the arm, by its name in `model.network.attention`.
        has_attention: whether the graph has an `attention` output.
        layers: explainable layers, last stage first; `layer` 0 of the graph is `layers[0]`.
        precision: of the arithmetic.
        weights_dtype: in which the weights are stored.
        operators: operator type → count in the graph, subgraphs included.
        provenance: data, recipe, seed, commit, licence.
        metrics: measured figures, e.g. held-out top-1 and ECE.
        parity: what the export's parity check measured.
        self_check: expected answers for synthetic images.
    """

    schema_version: int = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    labels: tuple[str, ...] = Field(min_length=2)
    resize: Resize
    mean: Triple
    std: Triple
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    network: dict[str, Any] = Field(default_factory=dict)
    attention: str = "none"
    has_attention: bool = False
    layers: tuple[Layer, ...] = Field(min_length=1)
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    weights_dtype: Literal["fp32", "fp16", "int8"] = "fp32"
    operators: dict[str, int] = Field(default_factory=dict)
    provenance: Provenance = Field(default_factory=Provenance)
    metrics: dict[str, float] = Field(default_factory=dict)
    parity: dict[str, float] = Field(default_factory=dict)
    self_check: SelfCheck | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two classes have the same label")
        if any(map(label_fault, self.labels)):
            raise ValueError("a label is empty or has unprintable characters")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if self.self_check is not None and any(len(row) != self.num_classes for row in self.self_check.logits):
            raise ValueError("the self check has another number of classes than there are labels")
        return self

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def input_size(self) -> int:
        """Side S of the square input, pixels."""
        return self.resize.crop

    def to_metadata(self) -> dict[str, str]:
        """Return the entry for the `metadata_props` of an ONNX file."""
        return {MANIFEST_KEY: self.model_dump_json()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Manifest":
        """Read the manifest out of an ONNX file's `metadata_props`.

        Raises:
            ManifestError: absent, newer than this version knows, or not valid.
        """
        text = metadata.get(MANIFEST_KEY)
        if text is None:
            raise ManifestError(f"the file has no manifest (metadata entry {MANIFEST_KEY!r})")
        try:
            version = _Version.model_validate_json(text).schema_version
            if version > SCHEMA_VERSION:
                raise ManifestError(f"the manifest has schema {version}; this version reads up to {SCHEMA_VERSION}")
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise ManifestError(f"the manifest is not valid: {where}: {first['msg']}") from error


class _Version(BaseModel):
    schema_version: int


def synthetic_images(seed: int, count: int, size: int) -> npt.NDArray[np.uint8]:
    """Return images that depend on the seed alone, on every machine and numpy version.

    A coarse grid of random colours, enlarged: white noise would leave a network's feature maps nearly constant.

    Args:
        seed: non-negative.
        count: number of images n.
        size: side S, pixels.

    Returns:
        RGB, uint8, (n, S, S, 3).
    """
    cells = 8
    stream = hashlib.shake_256(f"fieldmark:{seed}".encode()).digest(count * cells * cells * 3)
    coarse = np.frombuffer(stream, dtype=np.uint8).reshape(count, cells, cells, 3)
    index = np.arange(size) * cells // max(size, 1)
    return np.ascontiguousarray(coarse[:, index][:, :, index])
