"""Recipes: TOML → frozen dataclasses, in which an unknown key is an error.

A recipe says everything about a run but where the data lie and where the results go, and it travels inside the
checkpoint and the exported file. `recipes/*.toml` beside this module can be named without a path.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.contract.geometry import Resize
from training.errors import RecipeError
from training.sections import build, nearest, plain, require

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class NetworkRecipe:
    """What is trained.

    Attributes:
        backbone: torchvision's name.
        attention: the arm, by its name in `model.network.attention`.
        pooling: over the positions of the feature map.
        head: `mlp` is the paper's two layers, `linear` one.
        hidden: width of the mlp.
        dropout: before the last layer.
    """

    backbone: str = "mobilenet_v2"
    attention: str = "guided"
    pooling: Literal["max", "avg"] = "max"
    head: Literal["mlp", "linear"] = "mlp"
    hidden: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.hidden >= 1, "network.hidden must be at least 1")
        require(0 <= self.dropout < 1, "network.dropout must lie in [0, 1)")


@dataclass(frozen=True)
class DataRecipe:
    """What is held out, and the geometry between an image and the network's input.

    Attributes:
        input_size: side of the network's square input, pixels.
        resize_mode: as in the manifest: `shorter_side` keeps proportions, `stretch` does not.
        resize_size: length the image is scaled to before the centre crop of evaluation, pixels.
        mean: RGB, of images in [0, 1].
        std: RGB, of images in [0, 1].
        held_out: fraction of each class of the training part kept for selection and calibration; 0 keeps none.
        held_out_seed: which images those are; independent of the run's seed, so that seeds can be compared.
        store_side: shorter side the decoded training images are kept at, at most, pixels; 0: twice resize_size.
        cached_views: where an early part is frozen, compute its features of so many random variations of every
            image once, and train on those; 0 varies anew in every epoch.
    """

    input_size: int = 224
    resize_mode: Literal["shorter_side", "stretch"] = "shorter_side"
    resize_size: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    held_out: float = 0.1
    held_out_seed: int = 0
    store_side: int = 0
    cached_views: int = 0

    def __post_init__(self) -> None:
        require(self.input_size >= 16, "data.input_size must be at least 16 pixels")
        require(self.resize_size >= self.input_size, "data.resize_size must be at least data.input_size")
        require(0 <= self.held_out < 1, "data.held_out must lie in [0, 1)")
        require(self.cached_views >= 0, "data.cached_views must not be negative")
        require(min(self.std) > 0, "data.std must be positive")
        require(self.store_side == 0 or self.store_side >= self.input_size, "data.store_side is below input_size")

    @property
    def resize(self) -> Resize:
        """The evaluation's geometry, as the manifest says it."""
        return Resize(mode=self.resize_mode, size=self.resize_size, crop=self.input_size)


@dataclass(frozen=True)
class AugmentRecipe:
    """How a training image is varied.

    Attributes:
        size: side of the square trained on, pixels; 0 is `data.input_size`. Random crops show objects larger than
            evaluation does, so training a size below evaluation's helps (arXiv:1906.06423).
        crop: `random_resized` takes a part of random area and shape; `random` scales as evaluation does and takes
            a random crop (the paper's way).
        scale: smallest and largest area of the random part, as fractions of the image.
        ratio: narrowest and widest shape of that part, width / height.
        flip: probability of mirroring left to right.
        rotation: largest angle either way, degrees.
        brightness: strength of the colour jitter, as torchvision's; likewise contrast, saturation and hue.
        policy: torchvision's automatic augmentation on top.
        erasing: probability of blanking a random rectangle.
        mixup: alpha of the Beta distribution; 0 is off.
        cutmix: alpha of the Beta distribution; 0 is off. With both, each batch takes one of them.
        mix_probability: how many batches are mixed at all.
    """

    size: int = 0
    crop: Literal["random_resized", "random"] = "random_resized"
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    policy: Literal["none", "trivial", "rand"] = "none"
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.scale[0] <= self.scale[1] <= 1, "augment.scale must be 0 < smallest <= largest <= 1")
        require(0 < self.ratio[0] <= self.ratio[1], "augment.ratio must be 0 < narrowest <= widest")
        for name in ("flip", "erasing", "mix_probability"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name} is a probability")
        require(min(self.mixup, self.cutmix, self.rotation) >= 0, "augment: negative strengths make no sense")
        require(self.size == 0 or self.size >= 16, "augment.size must be at least 16 pixels, or 0")
        require(0 <= self.hue <= 0.5, "augment.hue must lie in [0, 0.5]")


@dataclass(frozen=True)
class OptimRecipe:
    """How the weights move.

    Attributes:
        optimizer: `sgd` with momentum, or `adamw`.
        epochs: passes over the training part.
        batch_size: images an optimiser step sees in one forward pass, over all processes together.
        accumulate: forward passes whose gradients are summed into one step.
        lr_backbone: peak learning rate of the pre-trained layers.
        lr_new: peak learning rate of attention and head.
        momentum: of sgd (Nesterov off, as the paper's).
        weight_decay: on weights; on norm layers and biases only with `decay_all`.
        decay_all: as the released scripts do.
        warmup_epochs: linear rise from near 0, in epochs (fractions allowed).
        schedule: `cosine` falls to 0 step by step, `cosine_epoch` once an epoch (as released), `constant` stays.
        clip_norm: largest gradient norm; 0 is off.
        freeze_stages: the first so many stages of the backbone keep their pre-trained weights.
        freeze_until: instead, name the last step that keeps them, e.g. `features.13` or `layer2`.
        label_smoothing: of the cross-entropy.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    epochs: int = 30
    batch_size: int = 32
    accumulate: int = 1
    lr_backbone: float = 0.01
    lr_new: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = False
    warmup_epochs: float = 1.0
    schedule: Literal["cosine", "cosine_epoch", "constant"] = "cosine"
    clip_norm: float = 0.0
    freeze_stages: int = 0
    freeze_until: str = ""
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            require(getattr(self, name) >= 1, f"optim.{name} must be at least 1")
        for name in ("lr_backbone", "lr_new", "weight_decay", "warmup_epochs", "clip_norm", "freeze_stages"):
            require(getattr(self, name) >= 0, f"optim.{name} must not be negative")
        require(0 <= self.label_smoothing < 1, "optim.label_smoothing must lie in [0, 1)")
        require(0 <= self.momentum < 1, "optim.momentum must lie in [0, 1)")


@dataclass(frozen=True)
class GuidanceRecipe:
    """How Grad-CAM guides the attention: loss = cross-entropy + weight · KL(attention, Grad-CAM).

    Attributes:
        weight: lambda; 0 trains without guidance.
        direction: of the divergence; w is the attention, beta the Grad-CAM weights.
        target_class: whose logit is differentiated.
        scale: `standardised` gives the gradient weights zero mean and unit deviation per image before the softmax;
            `released` leaves them as they are, which makes beta uniform to 1e-6.
        temperature: the (scaled) gradient weights are divided by it.
        control: what replaces beta, to learn whether its content matters: `uniform`, or its `shuffled` channels.
        reduction: over the batch; over channels it is always a sum. The released scripts sum.
        coupled: let batch norm mix the images of a batch in the Grad-CAM pass, as the released scripts do.
    """

    weight: float = 1.0
    direction: Literal["symmetric", "w_beta", "beta_w"] = "symmetric"
    target_class: Literal["predicted", "ground_truth"] = "predicted"
    scale: Literal["standardised", "released"] = "standardised"
    temperature: float = 1.0
    control: Literal["none", "uniform", "shuffled"] = "none"
    reduction: Literal["mean", "sum"] = "mean"
    coupled: bool = False

    def __post_init__(self) -> None:
        require(self.weight >= 0, "guidance.weight must not be negative")
        require(self.temperature > 0, "guidance.temperature must be positive")


@dataclass(frozen=True)
class RunRecipe:
    """How the loop runs; nothing here changes what is being optimised but the averaging.

    Attributes:
        amp: mixed precision on CUDA; the CPU always computes in float32.
        channels_last: memory format; on CUDA and on the CPU the faster one for these networks.
        ema_decay: of the averaged weights that are evaluated and exported; 0 is off.
        selection: which epoch is exported: the best on the held-out part, or the last.
    """

    amp: Literal["off", "bf16", "fp16"] = "bf16"
    channels_last: bool = True
    ema_decay: float = 0.0
    selection: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        require(0 <= self.ema_decay < 1, "run.ema_decay must lie in [0, 1)")


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but where the data lie and where the results go.

    Attributes:
        name: of the recipe.
        seed: of weights, order and augmentation.
    """

    name: str = "unnamed"
    seed: int = 0
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    guidance: GuidanceRecipe = field(default_factory=GuidanceRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed must not be negative")
        require(
            self.data.held_out > 0 or self.run.selection == "last",
            'without a held-out part (data.held_out = 0) there is nothing to select on: set run.selection = "last"',
        )

        require(
            self.data.cached_views == 0 or self.optim.freeze_stages > 0 or self.optim.freeze_until != "",
            "data.cached_views needs a frozen part: set optim.freeze_stages or optim.freeze_until",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, for the checkpoint and the manifest; `from_dict` reads them back."""
        result: dict[str, Any] = plain(dataclasses.asdict(self))
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Check and build.

        Raises:
            RecipeError: an unknown key, a wrong type, or a value that makes no sense.
        """
        return build(cls, values, "")

    def with_values(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a recipe with some values replaced, named as `section.key` (or `name`, `seed`)."""
        values = self.to_dict()
        for dotted, value in changes.items():
            *sections, key = dotted.split(".")
            at = values
            for section in sections:
                if not isinstance(at.get(section), dict):
                    raise RecipeError(f"unknown section {section!r} in {dotted!r}{nearest(section, at)}")
                at = at[section]
            at[key] = value
        return Recipe.from_dict(values)


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
