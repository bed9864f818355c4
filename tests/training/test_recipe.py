"""Recipes: accepted values, and the messages for others."""

from pathlib import Path

import pytest

from training.arms import ARMS, apply_arm
from training.errors import RecipeError
from training.recipe import Recipe, load_recipe, parse_change, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_is_valid(name: str) -> None:
    """It can be read, written and read again, for every arm its head allows."""
    recipe = load_recipe(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for arm in ARMS:
        if recipe.network.head == "mlp" or not ARMS[arm].matched:
            assert apply_arm(recipe, arm).optim == recipe.optim


def test_the_promised_recipes_are_there() -> None:
    """Their names are part of the interface."""
    assert {"released", "modern", "quick-cpu"} <= set(recipe_names())


def test_the_released_recipe_equals_the_scripts() -> None:
    """Sum over the batch, coupled images, an unscaled target, one direction; the leaked gradient has no setting."""
    guidance = load_recipe("released").guidance
    assert (guidance.reduction, guidance.coupled, guidance.scale, guidance.direction) == (
        "sum",
        True,
        "released",
        "w_beta",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "unknown key 'epochs'"),
        ("[optim]\nepoch = 3", "unknown key 'optim.epoch'; did you mean 'epochs'"),
        ("[optim]\nepochs = 0", "optim.epochs: should be greater than 0, not 0"),
        ("[optim]\nepochs = 'many'", "optim.epochs: should be a valid integer, not 'many'"),
        ("[optim]\nlr_new = nan", "optim.lr_new: should be a finite number, not nan"),
        ("[optim]\noptimizer = 'adam'", "optim.optimizer: should be 'sgd' or 'adamw', not 'adam'"),
        ("[augment]\nscale = [0.5]", "augment.scale.1: Field required, not [0.5]"),
        ("[augment]\nscale = [0.5, 0.1]", "smallest <= largest"),
        ("seed = true", "seed: should be a valid integer, not True"),
        ("[network]\nnum_classes = 3", "unknown key 'network.num_classes'"),
        ("optim = 3", "optim: should be a section of keys, not 3"),
        ("[data]\nheld_out = 0.0", 'run.selection = "last"'),
        ("[optim]\nhead_start = 'discriminant'", 'needs network.head = "linear"'),
        ("[optim]\nhead_shrinkage = 0.0", "optim.head_shrinkage: should be greater than 0, not 0.0"),
        ("[data", "Expected"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file, the key, and what was expected."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.toml") as refused:
        load_recipe(path)
    assert message in str(refused.value)


def test_the_message_for_an_unknown_recipe_lists_the_known_ones() -> None:
    """So that a typo is easily found."""
    with pytest.raises(RecipeError, match="modern"):
        load_recipe("moderne")


def test_the_command_line_changes_single_values() -> None:
    """TOML values, or bare words."""
    assert parse_change("optim.lr_new=0.1") == ("optim.lr_new", 0.1)
    assert parse_change("augment.scale=[0.2, 1]") == ("augment.scale", [0.2, 1])
    assert parse_change("network.pooling=avg") == ("network.pooling", "avg")
    assert Recipe().with_values({"optim.lr_new": 1}).optim.lr_new == 1.0
    with pytest.raises(RecipeError, match=r"section\.key=value"):
        parse_change("optim.lr_new")
    with pytest.raises(RecipeError, match="did you mean 'optim'"):
        Recipe().with_values({"optm.lr_new": 1})


def test_an_arm_changes_attention_and_guidance_alone() -> None:
    """The controls take the guided arm's weight; plain has none; the wide control pays for the gate in its head."""
    recipe = Recipe()
    assert apply_arm(recipe, "none") == apply_arm(recipe, "plain")
    assert apply_arm(recipe, "se").guidance.weight == 0
    assert apply_arm(recipe, "guided-shuffled").guidance.control == "shuffled"
    assert apply_arm(recipe, "plain+cam").guidance.weight == recipe.guidance.weight
    assert apply_arm(recipe, "plain-wide").network.hidden > recipe.network.hidden
    with pytest.raises(RecipeError, match="weight is 0"):
        apply_arm(recipe.with_values({"guidance.weight": 0}), "guided")
    with pytest.raises(RecipeError, match="linear"):
        apply_arm(recipe.with_values({"network.head": "linear"}), "plain-wide")
