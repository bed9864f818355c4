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
from model.contract.graph import inputs_of, outputs_of
from model.contract.labels import label_fault
from model.contract.marks import read_table
from model.contract.sets import Sets
from model.contract.taxonomy import Taxonomy

MANIFEST_KEY = "fieldmark.manifest"
SCHEMA_VERSION = 2
"""Version 1 had neither embedding, novelty nor marks, and no centres of cells; its files load as they are."""

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
        centres: where the cells look, as measured: (x, y) of the first cell's centre, and the steps right and down
            to the next ones, pixels of the input, whose first pixel's middle is 0; None where the file does not say.
    """

    name: str
    channels: int = Field(ge=1)
    grid: tuple[int, int]
    centres: tuple[Finite, Finite, Finite, Finite] | None = None


class Embedding(_Frozen):
    """The vector of a photo, of length 1: alike for photos that look alike.

    Attributes:
        size: D.
        num_photos: training photos whose principal axes it is on; 0 where the network's own vector is short enough.
    """

    size: int = Field(ge=1, le=256)
    num_photos: int = Field(default=0, ge=0)


class Novelty(_Frozen):
    """How unlike the training photos a photo is.

    Attributes:
        method: how it is computed.
        threshold: photos above it are like none of the classes.
        quantiles: of photos that were not trained on, ascending, evenly spaced from the lowest to the highest.
        num_photos: these photos.
    """

    method: str
    threshold: Finite
    quantiles: tuple[Finite, ...] = Field(min_length=2)
    num_photos: int = Field(ge=1)


class Individual(_Frozen):
    """How several photos of one individual are taken together.

    Attributes:
        dependence: of n photos each counts as n^−dependence of one; 0: independent, 1: their geometric mean.
        num_photos: that were not trained on, and that it was fitted to.
    """

    dependence: float = Field(ge=0, le=1)
    num_photos: int = Field(ge=1)


class Mark(_Frozen):
    """A field mark, in words.

    Attributes:
        name: as shown to people: `yellow crown`.
        part: where it is: `crown`.
        source: as the data set wrote it: `has_crown_color::yellow`.
        located: whether its map points at a place; a part that is alike in all classes cannot be found.
    """

    name: str
    part: str
    source: str = ""
    located: bool = True


class Marks(_Frozen):
    """The marks of a model, in the order of its outputs.

    Attributes:
        marks: A of them.
        table: share of observers who see a mark on a class, (K, A), base64 of float16 in little-endian rows; NaN where
            nobody said. A constant of the graph, too, where an unknown share is 0.
        grid: (h, w) of the maps: a regular grid over the network's input.
        maps: what the maps are: `weights` sum to 1, and say where the part's marks are read; `contributions` are the
            positive ones of each place to the mark's logit.
        seen: the least probability of a mark that counts as seen.
        missing: whether a typical mark that is not seen may be called missing: the marks passed the tests of being
            seen rather than guessed from the class.
    """

    marks: tuple[Mark, ...] = Field(min_length=1)
    table: str
    grid: tuple[int, int]
    maps: Literal["weights", "contributions"] = "weights"
    seen: float = Field(default=0.5, gt=0, lt=1)
    missing: bool = False

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [mark.name for mark in self.marks]
        if len(set(names)) != len(names):
            raise ValueError("two marks have the same name")
        if any(label_fault(text) for mark in self.marks for text in (mark.name, mark.part)):
            raise ValueError("a mark's name or part is empty or has unprintable characters")
        return self

    @property
    def num_marks(self) -> int:
        """A."""
        return len(self.marks)


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
        network: what `model.network` needs to build the network again; empty for a foreign module and for int8.
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
        embedding: of the `embedding` output; None where there is none.
        novelty: of the `novelty` output; None where there is none.
        marks: of the marks; None where there are none.
        placed_by_centres: whether the class's maps are drawn by the layers' true centres of cells instead of evenly.
        individual: of several photos of one individual; None where it was not fitted.
        sets: of the prediction sets; None where there are no photos to calibrate them on.
        taxonomy: of the classes; None where there is none.
        variant_of: sha256 of the fp32 file that this is a variant of; empty where there is none, or it is not known.
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
    embedding: Embedding | None = None
    novelty: Novelty | None = None
    marks: Marks | None = None
    placed_by_centres: bool = False
    individual: Individual | None = None
    sets: Sets | None = None
    taxonomy: Taxonomy | None = None
    variant_of: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

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
        if self.marks is not None:
            read_table(self.marks.table, self.num_classes, self.marks.num_marks)
        if self.sets is not None:
            self.sets.check(self.num_classes)
        if self.taxonomy is not None and len(self.taxonomy.rows) != self.num_classes:
            raise ValueError("the taxonomy has another number of classes than there are labels")
        return self

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def input_size(self) -> int:
        """Side S of the square input, pixels."""
        return self.resize.crop

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs, in its order."""
        return inputs_of(self.marks is not None)

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs, in its order."""
        return outputs_of(
            attention=self.has_attention,
            embedding=self.embedding is not None,
            novelty=self.novelty is not None,
            marks=self.marks is not None,
        )

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
