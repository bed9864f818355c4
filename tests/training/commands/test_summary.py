"""The cost of every arm."""

import json

import pytest

from training import cli
from training.commands.summary import cost_of, summary_table
from training.recipe import Recipe


def test_costs_are_counted() -> None:
    """A linear head and no attention: torchvision's own count of SqueezeNet's features, and its multiply-adds."""
    recipe = Recipe().with_values({"network.backbone": "squeezenet1_1", "network.attention": "none"})
    plain = cost_of(recipe.with_values({"network.head": "linear"}), "plain", 10)
    guided = cost_of(recipe.with_values({"network.head": "linear", "network.attention": "guided"}), "guided", 10)
    assert plain.parameters == 722_496 + 512 * 10 + 10
    assert guided.parameters - plain.parameters == guided.attention_parameters == 512 * 32 * 2 + 32 + 512
    assert plain.multiply_adds == pytest.approx(264e6, rel=0.03)
    assert guided.activation_bytes > plain.activation_bytes > 1_000_000
    assert "| guided | 0.76 M |" in summary_table([plain, guided])


def test_the_command_lists_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON."""
    options = ["--backbone=squeezenet1_1", "--set=data.input_size=64", "--set=data.resize_size=64", "--json"]
    assert cli.main(["summary", *options]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert {"plain", "se", "cbam", "guided", "plain-wide"} <= {arm["arm"] for arm in arms}
