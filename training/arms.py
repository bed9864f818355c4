"""The arms of the comparison: which attention, guided or not, and against which control.

The names are those of the paper's tables; `+cam` adds the guidance, and the last arms are added controls.
"""

from dataclasses import dataclass, replace
from typing import Literal

from training.errors import RecipeError
from training.recipe import Recipe


@dataclass(frozen=True)
class Arm:
    """One column of the comparison.

    Attributes:
        attention: its name in `model.network.attention`.
        guided: whether the guidance loss is on (with the recipe's settings).
        control: replaces Grad-CAM's weights.
        matched: with as many parameters as the guided arm, by a wider head: does size alone explain a difference?
    """

    attention: str
    guided: bool = False
    control: Literal["none", "uniform", "shuffled"] = "none"
    matched: bool = False


ARMS: dict[str, Arm] = {
    "plain": Arm("none"),
    "plain+cam": Arm("none", guided=True),
    "plain-wide": Arm("none", matched=True),
    "se": Arm("se"),
    "cbam": Arm("cbam"),
    "channel": Arm("channel"),
    "channel+cam": Arm("channel", guided=True),
    "spatial": Arm("spatial"),
    "spatial+cam": Arm("spatial", guided=True),
    "mixed": Arm("mixed"),
    "unguided": Arm("guided"),
    "guided": Arm("guided", guided=True),
    "guided-uniform": Arm("guided", guided=True, control="uniform"),
    "guided-shuffled": Arm("guided", guided=True, control="shuffled"),
}
"""Name → arm. `unguided` is the guided module without its loss: the paper's *channel + spatial*."""


def apply_arm(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe for one arm; nothing else of it changes.

    Raises:
        RecipeError: no such arm, or a guided one where the recipe's guidance has weight 0.
    """
    arm = ARMS.get("plain" if name == "none" else name)
    if arm is None:
        raise RecipeError(f"no arm {name!r}: there are {', '.join(ARMS)}")
    if arm.guided and recipe.guidance.weight == 0:
        raise RecipeError(f"arm {name!r} is guided, but guidance.weight is 0 in the recipe")
    guidance = replace(recipe.guidance, weight=recipe.guidance.weight if arm.guided else 0.0, control=arm.control)
    network = replace(recipe.network, attention=arm.attention)
    if arm.matched:
        network = replace(network, hidden=_matched_width(recipe))
    return replace(recipe, network=network, guidance=guidance)


def _matched_width(recipe: Recipe) -> int:
    """Return the head's width that costs a plain network as many parameters as the guided module has.

    The module's gate has 2·C·C/16 weights and C/16 + C biases; a wider mlp pays C + K + 3 for each further unit.
    Only the mlp head can be widened; K hardly matters, so the classes are taken as few.
    """
    from model.network.attention import REDUCTION
    from model.network.backbone import STAGES

    if recipe.network.head != "mlp":
        raise RecipeError("arm 'plain-wide' widens the mlp head; the recipe's head is linear")
    channels = STAGES[recipe.network.backbone][-1].channels
    squeezed = max(1, channels // REDUCTION)
    gate = 2 * channels * squeezed + squeezed + channels
    return recipe.network.hidden + round(gate / (channels + 3))
