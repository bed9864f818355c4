"""What a network is made of, without torch: recipes hold it, and a network's own config adds its classes."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""An unknown key, a value of another type and NaN are errors."""
BelowOne = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class NetworkOptions:
    """Everything about a network but its classes.

    Attributes:
        backbone: one of `model.network.backbone.STAGES`, torchvision's names.
        attention: one of `model.network.attention.ARMS`.
        pooling: how the feature map becomes a vector; the method takes `max`.
        head: `mlp` is the method's BatchNorm → Linear → BatchNorm → ELU → Linear, `linear` one layer.
        hidden: units of the mlp.
        dropout: probability, before the last Linear.
        mark_grid: side of the grid that marks are read on, cells.
        mark_width: number of features that are read at a place.
        mark_places: maps that say where a part is, by index into `Backbone.maps`; negative ones count from the last.
        mark_values: maps whose features are read there.
        mark_shift: (x, y) by which trained cells look past the centres of their windows, pixels of the input.
        mark_between: part → parts between which it lies, for parts that the table cannot place: eyes are black in
            nearly every bird, but lie between bill, forehead and crown. Parts that the table lacks are left out.
        mark_copies: how many times the places are learnt, each from a start of its own. The scores are averaged, which
            one layer computes; on one third of the training photos, held out, three copies found 64.5% of the marks
            where one found 58 to 63%.
        mark_votes: factor of what the parts add to the classes' logits, and to their maps, which then lie on the marks'
            grid; 0: nothing. The votes learn to name the class by themselves.
        mark_local: fine maps, by which the places are learnt; the trained network does not compute with them.

    Raises:
        ValidationError: a ValueError; a value that is not offered.
    """

    backbone: str = "mobilenet_v2"
    attention: str = "guided"
    pooling: Literal["max", "avg"] = "max"
    head: Literal["mlp", "linear"] = "mlp"
    hidden: int = Field(default=512, ge=1)
    dropout: BelowOne = 0.0
    mark_grid: int = Field(default=18, ge=2)
    mark_width: int = Field(default=48, ge=1)
    mark_places: tuple[int, ...] = Field(default=(-3,), min_length=1)
    mark_values: tuple[int, ...] = Field(default=(-3, -2), min_length=1)
    mark_local: tuple[int, ...] = Field(default=(-5, -4), min_length=1)
    mark_shift: tuple[float, float] = (0.0, 0.0)
    mark_copies: int = Field(default=1, ge=1, le=16)
    mark_votes: Annotated[float, Field(ge=0)] = 0.0
    mark_between: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
