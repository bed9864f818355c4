"""What clients send and get, as pydantic models: the source of the OpenAPI document and of its examples.

The routes build these answers as plain dicts, since validating an answer costs more than building it; the tests
validate every real answer with these models.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import ConfigDict, Field

from model.contract.graph import MAX_MARKS

MAX_AMONG = 256
"""Most classes that a request names as candidates."""

View = Literal["overlay", "gradcam", "attention", "panel", "marks"]
Colormap = Literal["turbo", "viridis", "inferno", "jet"]

_LABEL = "Black footed Albatross"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
EXAMPLE_ID = "5f2b9d1c3e8a4f6b8d7c6e5f4a3b2c1d"
EXAMPLE_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
"""A picture of one grey pixel, base64 of a PNG: an example that can be sent as it stands."""


class BaseModel(pydantic.BaseModel):
    """Whose validator is made at its first use: commands use one of these models, and making all takes 30 ms."""

    model_config = ConfigDict(defer_build=True)


class ModelChoice(BaseModel):
    """Which of the loaded models answers."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), frozen=True)

    model: str | None = Field(
        None, min_length=1, max_length=64, description="Name of a loaded model; by default the first of `/models`."
    )
    version: str | None = Field(None, min_length=1, max_length=64, description="Its version; by default the newest.")


class ClassifyOptions(ModelChoice):
    """Query parameters of `/classify` and `/explain`."""

    top_k: int = Field(5, ge=1, le=1000, description="Most classes to name, the likeliest first.")
    threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False,
        description="Adds `accepted`: whether the first class is at least this likely, else none of these.",
    )  # fmt: skip
    coverage: float | None = Field(
        None, gt=0, lt=1, allow_inf_nan=False,
        description="JSON only: adds `set`, the classes that hold the true one for so large a share of images like the "
        "model's training photos, and their `taxon`.",
        examples=[0.9],
    )  # fmt: skip
    marks: int | None = Field(
        None, ge=1, le=MAX_MARKS, description="Adds `marks`: at most so many field marks of the class that are seen, "
        "in words and in place.",
    )  # fmt: skip
    among: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=MAX_AMONG, description="Only these classes may be there, each a label or `class:INDEX`; repeat "
        "the parameter.", examples=[["class:0", "class:7"]],
    )  # fmt: skip
    prior: str | None = Field(
        None, max_length=64, description="How common the classes are: the name of one of the model's `priors` in "
        "`/models`; by default they are equally common.", examples=["May"],
    )  # fmt: skip


class PhotosOptions(ClassifyOptions):
    """Query parameters of `/classify`."""

    individual: bool = Field(False, description="All images are of one individual: they get one answer together.")


class ExplainOptions(ClassifyOptions):
    """Query parameters of `/explain`."""

    target: str = Field(
        "rank:1", max_length=200, description="The class to explain: a label, `class:INDEX` or `rank:N`.",
        examples=["rank:1", "class:7"],
    )  # fmt: skip
    versus: str | None = Field(
        None, max_length=200, description="Explain why `target` and not this class, named in the same way.",
        examples=["rank:2"],
    )  # fmt: skip
    layer: str | None = Field(
        None, max_length=200, description="Layer whose map is shown: its name or its index in `/models`; by default "
        "the last stage, index 0.", examples=["0", "features.18"],
    )  # fmt: skip
    mark: str | None = Field(
        None, max_length=200, description="Show where this field mark is read: its name, `mark:INDEX` or `rank:N`, "
        "of which 1 distinguishes best.",
        examples=["rank:1", "mark:7"],
    )  # fmt: skip
    view: View = Field(
        "overlay",
        description="What the picture shows; `marks`: the photo with numbered places and the words beside it.",
    )
    colormap: Colormap = Field("turbo", description="Colours of the maps.")
    opacity: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="Weight of the colours over the image.")
    size: int | None = Field(
        None, ge=16, le=4096, description="Longer side of the picture, pixels; by default as the image."
    )
    values: bool = Field(False, description="JSON only: adds the raw values of the maps.")
    mark_maps: bool = Field(False, description="JSON only: adds the maps of `marks`, at most 448 pixels large.")


class Score(BaseModel):
    """A class and how likely it is."""

    label: str = Field(examples=[_LABEL])
    index: int = Field(ge=0, examples=[0])
    probability: float = Field(
        ge=0,
        le=1,
        description="Calibrated. With the load its last digit may change: more threads add up in another order.",
        examples=[0.93],
    )


class ModelId(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["cub50"])
    version: str = Field(examples=["1"])
    sha256: str = Field(description="Of the file that runs.", examples=[_SHA256])
    precision: str = Field(description="Of the file that runs: `fp32`, `fp16` or `int8`.", examples=["fp32"])


class MissingMark(BaseModel):
    """A field mark that is typical of the class and not seen."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["yellow crown"])
    part: str = Field(description="Where it is.", examples=["crown"])
    seen: float = Field(ge=0, le=1, description="Calibrated probability that it is seen.", examples=[0.97])
    typical: float | None = Field(
        ge=0, le=1, description="Share of observers who see it on the class; null where nobody said.", examples=[0.93]
    )
    typical_versus: float | None = Field(
        None, ge=0, le=1, description="With `versus`: likewise on that class.", examples=[0.12]
    )


class Taxon(BaseModel):
    """A group of classes."""

    model_config = ConfigDict(extra="forbid")

    rank: str = Field(description="One of `taxonomy` in `/models`; `class` for a single class.", examples=["genus"])
    name: str = Field(examples=["Phoebastria"])


class FieldMark(MissingMark):
    """A field mark of the class that is seen, and where; one that cannot be located has no `at` and no `evidence`."""

    at: list[float] | None = Field(
        None, min_length=2, max_length=2, description="Where it is read, [x, y] in the image's pixels.",
        examples=[[212.5, 87.5]],
    )  # fmt: skip
    evidence: float | None = Field(
        None, ge=0, description="How much of the evidence for the class (with `versus`: for it and against the other) "
        "lies where the mark is read, as a multiple of chance. Below 1 the mark is seen, but not where the decision "
        "looked. Null where the map of another layer was requested, or has no evidence.", examples=[3.4],
    )  # fmt: skip


class Decision(BaseModel):
    """What the classes are, and what was said of them before."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    predictions: list[Score] = Field(description="The likeliest first.")
    accepted: bool | None = Field(
        None, description="Present with `threshold`: whether the first class reaches it.", examples=[True]
    )
    set: list[str] | None = Field(
        None, min_length=1, description="With `coverage`: labels, the likeliest first.",
        examples=[[_LABEL, "Laysan Albatross"]],
    )  # fmt: skip
    taxon: Taxon | None = Field(
        None, description="With `coverage`, where the model has a taxonomy: the lowest taxon of all classes in `set`; "
        "null where even the widest rank differs.",
    )  # fmt: skip
    prior: str | None = Field(None, description="With `prior`: its name.", examples=["May"])
    among: list[str] | None = Field(
        None, description="With `among`: labels of these classes, in the model's order.", examples=[[_LABEL]]
    )


class Classification(Decision):
    """The classes of one image."""

    known: bool | None = Field(
        None, description="Whether the image is like photos of some class; if not, the classes are only the nearest. "
        "This and `novelty` are present where the model can say so.", examples=[True],
    )  # fmt: skip
    novelty: float | None = Field(
        None, ge=0, le=1, description="Share of held-out photos of the classes that are less novel.", examples=[0.42]
    )
    marks: list[FieldMark] | None = Field(
        None, description="With `marks`: those seen of the first class (of `/explain`: of `target`; with `versus`, "
        "those that distinguish it from that class), the best first.",
    )  # fmt: skip
    missing: list[MissingMark] | None = Field(
        None, description="With `marks`, where the model's sight of marks was tested: those typical and not seen."
    )
    model: ModelId
    filename: str | None = Field(description="As the client named the file.", examples=["albatross.jpg"])
    width: int = Field(ge=1, description="Of the upright image, pixels.", examples=[500])
    height: int = Field(ge=1, examples=[333])
    request_id: str = Field(examples=[EXAMPLE_ID])


class ClassMap(BaseModel):
    """A map over the image."""

    model_config = ConfigDict(extra="forbid")

    png: str = Field(
        description="Data URL of a transparent layer in the size of the image.",
        examples=[f"data:image/png;base64,{EXAMPLE_IMAGE}"],
    )
    min: float = Field(description="Lowest raw value, before scaling for display.", examples=[0.0])
    max: float = Field(description="Highest raw value.", examples=[3.2])
    shape: list[int] = Field(min_length=2, max_length=2, description="Rows and columns.", examples=[[7, 7]])
    note: str | None = Field(None, description="What the colours alone do not show.", examples=["no positive evidence"])
    values: list[list[float]] | None = Field(None, description="Raw values by row; with `values=true`.")


class MarkMap(FieldMark, ClassMap):
    """A field mark and the map of where it is read."""


class Explanation(Classification):
    """The classes of one image and where the model saw them."""

    target: Score = Field(description="The class that was explained.")
    versus: Score | None = Field(None, description="The class it was contrasted with.")
    layer: str = Field(description="Name of the layer whose map is shown.", examples=["features.18"])
    gradcam: ClassMap = Field(
        description="Grad-CAM of `target`, and the votes of its parts if any; with `versus`, of target − versus."
    )
    gradcam_versus: ClassMap | None = Field(None, description="With `versus`: Grad-CAM of versus − target.")
    attention: ClassMap | None = Field(description="The model's own attention; null where it has none.")
    mark: MarkMap | None = Field(None, description="With `mark`: that field mark.")
    mark_maps: list[ClassMap] | None = Field(None, description="With `mark_maps`: the map of each of `marks`.")


class InvalidParameter(BaseModel):
    """One parameter that is not valid."""

    name: str = Field(examples=["top_k"])
    reason: str = Field(examples=["must be at least 1"])


class Problem(BaseModel):
    """An error in the form of RFC 9457."""

    type: str = Field(description="Where the error is explained.", examples=["/errors#undecodable_image"])
    title: str = Field(examples=["The image cannot be decoded"])
    status: int = Field(ge=400, le=599, examples=[422])
    detail: str = Field(examples=["The image is truncated."])
    code: str = Field(description="Stable name of the error.", examples=["undecodable_image"])
    request_id: str = Field(examples=[EXAMPLE_ID])
    trace_id: str | None = Field(None, description="Of the trace, with a valid `traceparent` or where one is sampled.")
    filename: str | None = Field(None, description="In `results`: of the image at fault.")
    nearest: list[str] | None = Field(
        None, description="With unknown_class, unknown_prior, unknown_mark: similar names.", examples=[[_LABEL]]
    )
    invalid: list[InvalidParameter] | None = Field(None, description="With invalid_option: the parameters at fault.")
    models: list[str] | None = Field(None, description="With unknown_model: names that are served.")
    versions: list[int] | None = Field(None, description="With unknown_model: versions of it that are served.")
    error: str | None = Field(None, description="Below `/v2`: `detail`, where clients of that protocol read it.")


class Classifications(BaseModel):
    """The classes of several images, in their order, with a problem in place of a bad image."""

    results: list[Classification | Problem]


class Individual(Decision):
    """The classes that several images of one individual give together; their order does not matter."""

    known: bool | None = Field(
        None, description="Whether one of the images at least is like those of some class.", examples=[True]
    )
    photos: int = Field(ge=1, description="Images that count; those with a problem do not.", examples=[2])
    results: list[Classification | Problem] = Field(description="Each image's own answer, in their order.")
    model: ModelId
    request_id: str = Field(examples=[EXAMPLE_ID])


class Explanations(BaseModel):
    """The explanations of several images, in their order, with a problem in place of a bad image."""

    results: list[Explanation | Problem]


class LayerInfo(BaseModel):
    """A layer whose map can be requested."""

    index: int = Field(description="In the list; `layer` takes it, or the name.", examples=[0])
    name: str = Field(examples=["features.18"])
    shape: list[int] = Field(description="Rows and columns of its maps.", examples=[[7, 7]])


class MarkInfo(BaseModel):
    """A field mark that a model knows."""

    index: int = Field(description="In the list; `mark` takes it as `mark:INDEX`, or the name.", examples=[0])
    name: str = Field(examples=["yellow crown"])
    part: str = Field(description="Where it is.", examples=["crown"])


class ModelInfo(ModelId):
    """A loaded model."""

    labels: list[str] = Field(
        description="Classes in the order of their index.", examples=[[_LABEL, "Laysan Albatross"]]
    )
    input_size: int = Field(description="Side of the square the network sees, pixels.", examples=[224])
    layers: list[LayerInfo]
    attention: str = Field(description="Kind of attention.", examples=["guided"])
    has_attention: bool = Field(description="Whether there is an attention map to show.", examples=[True])
    marks: list[MarkInfo] = Field(description="Field marks in the order of their index; empty where it has none.")
    priors: list[str] = Field(description="Names that `prior` takes; empty where it has none.", examples=[["May"]])
    embedding: int | None = Field(description="Length of its embedding; null where it has none.", examples=[256])
    novelty: bool = Field(description="Whether it says how unlike its training photos an image is.", examples=[False])
    sets: bool = Field(description="Whether it answers `coverage`.", examples=[True])
    taxonomy: list[str] = Field(
        description="Ranks from narrow to wide; empty where it has none.", examples=[["genus", "family", "order"]]
    )
    provider: str = Field(description="What runs it.", examples=["CPUExecutionProvider"])
    metrics: dict[str, float] = Field(description="As measured at export.", examples=[{"top1": 0.85}])
    dataset: str = Field(description="What it was trained on.", examples=["CUB-200-2011, classes 1-50"])
    licence: str = Field(description="What data and weights allow.", examples=["non-commercial research"])
    loaded_at: str = Field(description="UTC, ISO 8601.", examples=["2026-11-22T12:00:00+00:00"])


class Models(BaseModel):
    """All loaded models."""

    models: list[ModelInfo]
    feedback: bool | None = Field(None, description="Present where `/feedback` takes what users say of answers.")


class Liveness(BaseModel):
    """The process runs."""

    status: Literal["alive"] = "alive"


class ReadyModel(ModelId):
    """A model that answers."""

    provider: str = Field(description="What runs it.", examples=["CPUExecutionProvider"])


class Readiness(BaseModel):
    """Models are loaded and warm; the further members are for people."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ready"] = "ready"
    ready: bool = Field(examples=[True])
    draining: bool = Field(description="Whether it is stopping.", examples=[False])
    models: list[ReadyModel]
    provider: str | None = Field(description="What runs the first model.", examples=["CPUExecutionProvider"])
    workers_alive: bool = Field(examples=[True])
    requests_in_hand: int = Field(ge=0, description="Admitted and not yet answered.", examples=[3])
    waiting: int = Field(ge=0, description="Images that wait for a run.", examples=[1])


class FailedModel(BaseModel):
    """A file that is not served, or whose older content still is."""

    model: str = Field(examples=["cub50/2"])
    reason: str = Field(examples=["not an ONNX file, or a truncated one"])


class Reloaded(BaseModel):
    """What a reload changed; models as `NAME/VERSION`."""

    model_config = ConfigDict(extra="forbid")

    loaded: list[str] = Field(examples=[["cub50/3"]])
    unchanged: list[str] = Field(examples=[["cub50/1"]])
    removed: list[str] = Field(examples=[[]])
    failed: list[FailedModel]
