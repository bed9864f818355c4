"""Recipes: TOML → frozen, checked dataclasses; an unknown key is an error.

A recipe contains every setting of a run except the paths of data and results. It is stored in the checkpoint and the
exported file. `recipes/*.toml` beside this module can be named without a path.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from model.contract.geometry import Resize
from model.network.config import STRICT, BelowOne, NetworkOptions
from training.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class DataRecipe:
    """The held-out part, and the geometry from an image to the network's input.

    Attributes:
        input_size: side of the network's square input, pixels.
        resize_mode: as in the manifest: `shorter_side` keeps proportions, `stretch` does not.
        resize_size: length the image is scaled to before the centre crop of evaluation, pixels.
        mean: RGB, of images in [0, 1].
        std: RGB, of images in [0, 1].
        held_out: fraction of each class of the training part kept for selection and calibration; 0 keeps none.
        held_out_seed: which images those are; independent of the run's seed, so that seeds can be compared.
        store_side: largest shorter side of the stored training images, pixels; 0: twice resize_size.
        cached_views: with a frozen early part, number of random variations of every image whose features are computed
            once and trained on; 0: new variations in every epoch.
    """

    input_size: int = Field(default=224, ge=16)
    resize_mode: Literal["shorter_side", "stretch"] = "shorter_side"
    resize_size: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    held_out: BelowOne = 0.1
    held_out_seed: int = 0
    store_side: int = 0
    cached_views: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.resize_size < self.input_size:
            raise ValueError("data.resize_size must be at least data.input_size")
        if self.store_side and self.store_side < self.input_size:
            raise ValueError("data.store_side must be 0 or at least data.input_size")

    @property
    def resize(self) -> Resize:
        """The geometry of evaluation, as in the manifest."""
        return Resize(mode=self.resize_mode, size=self.resize_size, crop=self.input_size)


@dataclass(frozen=True, config=STRICT)
class AugmentRecipe:
    """The random variation of training images.

    Attributes:
        size: side of the training square, pixels; 0 is `data.input_size`. Random crops show objects larger than
            evaluation does, so a size below evaluation's helps (arXiv:1906.06423).
        crop: `random_resized` takes a part of random area and shape; `random` scales as evaluation does and takes
            a random crop (the paper's way).
        scale: smallest and largest area of the random part, as fractions of the image.
        ratio: narrowest and widest shape of that part, width / height.
        flip: probability of mirroring left to right.
        rotation: largest angle either way, degrees.
        brightness: strength of the colour jitter, as torchvision's.
        contrast: likewise.
        saturation: likewise.
        hue: likewise, at most 0.5.
        policy: torchvision's automatic augmentation on top.
        erasing: probability of blanking a random rectangle.
        mixup: alpha of the Beta distribution; 0 is off.
        cutmix: alpha of the Beta distribution; 0 is off. With both, each batch takes one of them.
        mix_probability: share of the batches that are mixed.
    """

    size: int = 0
    crop: Literal["random_resized", "random"] = "random_resized"
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: Probability = 0.5
    rotation: NonNegativeFloat = 0.0
    brightness: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0
    saturation: NonNegativeFloat = 0.0
    hue: float = Field(default=0.0, ge=0, le=0.5)
    policy: Literal["none", "trivial", "rand"] = "none"
    erasing: Probability = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    mix_probability: Probability = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("augment.scale must be 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("augment.ratio must be 0 < narrowest <= widest")
        if self.size and self.size < 16:
            raise ValueError("augment.size must be at least 16 pixels, or 0")


@dataclass(frozen=True, config=STRICT)
class OptimRecipe:
    """The optimisation of the weights.

    Attributes:
        optimizer: `sgd` with momentum, or `adamw`.
        epochs: passes over the training part.
        batch_size: images of one forward pass, over all processes together.
        accumulate: forward passes whose gradients are summed into one step.
        lr_backbone: peak learning rate of the pre-trained layers.
        lr_new: peak learning rate of attention and head.
        lr_marks: peak learning rate of the mark head; 0: lr_new.
        momentum: of sgd (Nesterov off, as the paper's).
        weight_decay: on weights; on norm layers and biases only with `decay_all`.
        decay_all: decay every parameter, as the released scripts do.
        warmup_epochs: linear rise from near 0, in epochs (fractions allowed).
        schedule: `cosine` falls to 0 step by step, `cosine_epoch` once an epoch (as released), `constant` stays.
        clip_norm: largest gradient norm; 0 is off.
        freeze_stages: the first so many stages of the backbone keep their pre-trained weights.
        freeze_until: instead, the last step that keeps them, e.g. `features.13` or `layer2`.
        freeze_norms: the backbone's batch norms keep their pre-trained statistics while their layers learn.
        head_start: `random`, or `discriminant` for a linear head that starts as the linear discriminant analysis of
            the pre-trained features.
        head_shrinkage: of the covariance in that analysis, towards its mean variance; without any it may be singular.
        label_smoothing: of the cross-entropy.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    lr_backbone: NonNegativeFloat = 0.01
    lr_new: NonNegativeFloat = 0.1
    lr_marks: NonNegativeFloat = 0.0
    momentum: BelowOne = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    decay_all: bool = False
    warmup_epochs: NonNegativeFloat = 1.0
    schedule: Literal["cosine", "cosine_epoch", "constant"] = "cosine"
    clip_norm: NonNegativeFloat = 0.0
    freeze_stages: NonNegativeInt = 0
    freeze_until: str = ""
    freeze_norms: bool = False
    head_start: Literal["random", "discriminant"] = "random"
    head_shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.8
    label_smoothing: BelowOne = 0.0


@dataclass(frozen=True, config=STRICT)
class GuidanceRecipe:
    """How Grad-CAM guides the attention: loss = cross-entropy + weight · KL(attention, Grad-CAM).

    Attributes:
        weight: lambda; 0 trains without guidance.
        direction: of the divergence; w is the attention, beta the Grad-CAM weights.
        target_class: whose logit is differentiated.
        scale: `standardised` gives the gradient weights zero mean and unit deviation per image before the softmax;
            `released` leaves them as they are, which makes beta uniform to 1e-6.
        temperature: the (scaled) gradient weights are divided by it.
        control: replaces beta, to test whether its content matters: `uniform`, or its `shuffled` channels.
        reduction: over the batch; over channels it is always a sum. The released scripts sum.
        coupled: let batch norm mix the images of a batch in the Grad-CAM pass, as the released scripts do.
    """

    weight: NonNegativeFloat = 1.0
    direction: Literal["symmetric", "w_beta", "beta_w"] = "symmetric"
    target_class: Literal["predicted", "ground_truth"] = "predicted"
    scale: Literal["standardised", "released"] = "standardised"
    temperature: PositiveFloat = 1.0
    control: Literal["none", "uniform", "shuffled"] = "none"
    reduction: Literal["mean", "sum"] = "mean"
    coupled: bool = False


@dataclass(frozen=True, config=STRICT)
class MarkRecipe:
    """How marks are learnt, where the data set has a table of them: loss = … + weight · all of it.

    Attributes:
        weight: of all of it; 0 builds a network without marks.
        seen: of the cross-entropy of the marks as they are read, beside the loss of the places, whose weight is 1.
        apart: of the penalty on parts that lie in one place.
        evidence: of the loss that draws the map of "A, not B" to the parts in which A and B differ.
        sight: epochs after the last one in which the readers alone learn, from photos with hidden parts as well.
    """

    weight: NonNegativeFloat = 0.3
    seen: NonNegativeFloat = 5.0
    apart: NonNegativeFloat = 3.0
    evidence: NonNegativeFloat = 0.0
    sight: NonNegativeInt = 0


@dataclass(frozen=True, config=STRICT)
class RunRecipe:
    """The settings of the loop.

    Attributes:
        amp: mixed precision on CUDA; the CPU always computes in float32.
        channels_last: memory format; the faster one for these networks, on CUDA and on the CPU.
        ema_decay: of the averaged weights that are evaluated and exported; 0 is off.
        selection: which epoch is exported: the best on the held-out part, or the last.
    """

    amp: Literal["off", "bf16", "fp16"] = "bf16"
    channels_last: bool = True
    ema_decay: BelowOne = 0.0
    selection: Literal["best", "last"] = "best"


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Every setting of a run except the paths of data and results.

    Attributes:
        name: of the recipe.
        seed: of weights, order and augmentation.
    """

    name: str = "unnamed"
    seed: NonNegativeInt = 0
    network: NetworkOptions = NetworkOptions()
    data: DataRecipe = DataRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    optim: OptimRecipe = OptimRecipe()
    guidance: GuidanceRecipe = GuidanceRecipe()
    marks: MarkRecipe = MarkRecipe()
    run: RunRecipe = RunRecipe()

    def __post_init__(self) -> None:
        if not self.data.held_out and self.run.selection == "best":
            raise ValueError(
                'without a held-out part (data.held_out = 0) there is nothing to select on: set run.selection = "last"'
            )
        if self.data.cached_views and not (self.optim.freeze_stages or self.optim.freeze_until):
            raise ValueError("data.cached_views needs a frozen part: set optim.freeze_stages or optim.freeze_until")
        if self.optim.head_start == "discriminant" and self.network.head != "linear":
            raise ValueError('optim.head_start = "discriminant" needs network.head = "linear"')

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, for the checkpoint and the manifest; `from_dict` reads them back."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Check and build.

        Raises:
            RecipeError: an unknown key, a wrong type, or an invalid value.
        """
        try:
            # As JSON, where a list may stand for a tuple and nothing else is converted.
            return _ADAPTER.validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise RecipeError("; ".join(map(_fault, error.errors()))) from error

    def with_values(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a recipe with some values replaced, named as `section.key` (or `name`, `seed`)."""
        values = self.to_dict()
        for dotted, value in changes.items():
            section, _, key = dotted.rpartition(".")
            if section and not isinstance(values.get(section), dict):
                raise RecipeError(f"unknown section {section!r} in {dotted!r}{_nearest(section, values)}")
            (values[section] if section else values)[key] = value
        return Recipe.from_dict(values)


_ADAPTER = TypeAdapter(Recipe)


def _fault(error: ErrorDetails) -> str:
    """Return what is wrong with a recipe, with the full path of the key."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "unexpected_keyword_argument":
        section, _, key = where.rpartition(".")
        known = attrgetter(section)(Recipe()) if section else Recipe
        return f"unknown key {where!r}{_nearest(key, (one.name for one in dataclasses.fields(known)))}"
    expected = error["msg"].removeprefix("Input ").replace("an object", "a section of keys")
    return f"{where}: {expected}, not {error['input']!r}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the nearest of the known names."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by the name of one that comes with fieldmark, or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, not TOML, or not valid.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe {str(name)!r}: there are {', '.join(recipe_names())}, or a .toml file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: {error}") from error
    try:
        return Recipe.from_dict({"name": path.stem, **values})
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with fieldmark."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def parse_change(text: str) -> tuple[str, Any]:
    """Read one `section.key=value` of the command line; the value is TOML, or else a bare string.

    Raises:
        RecipeError: there is no `=`.
    """
    dotted, separator, value = text.partition("=")
    if not separator:
        raise RecipeError(f"expected section.key=value, not {text!r}")
    try:
        return dotted.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted.strip(), value.strip()
