"""`fieldmark-train recipes`: every key has a meaning, and the text is a recipe."""

import json
from pathlib import Path

import pytest

from training.cli import main
from training.recipe import Recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_printed_is_the_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saved to a file it is the same recipe, and each of its keys is explained by what the checking class says."""
    assert main(["recipes", name]) == 0
    text = capsys.readouterr().out
    (tmp_path / "again.toml").write_text(text)
    assert load_recipe(name) == load_recipe(tmp_path / "again.toml")
    assert main(["recipes", name, "--json"]) == 0
    keys = {one["key"]: one for one in json.loads(capsys.readouterr().out)["keys"]}
    flat = {
        f"{section}.{key}": value
        for section, values in load_recipe(name).to_dict().items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    assert flat == {key: one["value"] for key, one in keys.items() if "." in key}
    assert [] == [key for key, one in keys.items() if not one["meaning"].endswith(".")]


def test_the_list_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Names with their purposes; a recipe of the user's own is described as well."""
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert recipe_names() == [line.split()[0] for line in lines if not line.startswith(" ")]


def test_a_recipe_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is described like those that come with fieldmark; one that does not exist is refused in one line."""
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nepochs = 7\n")
    assert main(["recipes", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"# Passes over the training part. Default: {Recipe().optim.epochs}\nepochs = 7\n" in said
    assert main(["recipes", "none"]) == 1
    assert "fieldmark-train recipes: no recipe 'none': there are birds," in capsys.readouterr().err
