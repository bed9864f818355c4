"""`fieldmark-train recipes`: the recipes that come with fieldmark, and every key of one with its meaning.

The meanings are those of the classes that check a recipe; the text is itself a recipe.
"""

import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from training.recipe import RECIPES, Recipe, load_recipe, recipe_names


def list_recipes(*, as_json: bool) -> str:
    """Return the recipes, each with what it is for."""
    purposes = {name: purpose(name) for name in recipe_names()}
    if as_json:
        return _json({"recipes": [{"name": name, "purpose": words} for name, words in purposes.items()]})
    width = max(map(len, purposes)) + 2
    lines = [
        textwrap.fill(
            words.partition(". ")[0].rstrip(".") + ".",
            100,
            initial_indent=f"{name:{width}}",
            subsequent_indent=" " * width,
        )
        for name, words in purposes.items()
    ]
    return "\n".join(lines) + "\n"


def describe_recipe(name: str, *, as_json: bool) -> str:
    """Return every key of a recipe: its meaning, its default and its value.

    Args:
        name: of a recipe that comes with fieldmark, or the path of a TOML file.
        as_json: return JSON, not TOML.

    Raises:
        RecipeError: no such recipe, or not a valid one.
    """
    recipe = load_recipe(name)
    keys = list(_keys(recipe))
    if as_json:
        return _json({"name": recipe.name, "keys": keys})
    lines = [f"# {line}".rstrip() for line in textwrap.wrap(purpose(name) if name in recipe_names() else name, 110)]
    section = None
    for key in keys:
        before, _, last = key["key"].rpartition(".")
        if before != section:
            lines += ["", f"[{before}]"] if before else [""]
            section = before
        lines += [f"# {line}" for line in textwrap.wrap(f"{key['meaning']} Default: {_toml(key['default'])}", 110)]
        lines.append(f"{last} = {_toml(key['value'])}")
    return "\n".join(lines) + "\n"


def purpose(name: str) -> str:
    """Return what a recipe that comes with fieldmark is for: the comment that it begins with."""
    lines = (RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    comment = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _keys(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield each key with its meaning, its default and its value; the keys without a section first."""
    values, defaults = recipe.to_dict(), Recipe().to_dict()
    sections = {name: value for name, value in values.items() if isinstance(value, dict)}
    for section, holder in {"": recipe, **{name: getattr(recipe, name) for name in sections}}.items():
        meanings = meanings_of(type(holder))
        here, usual = (values[section], defaults[section]) if section else (values, defaults)
        for field in dataclasses.fields(holder):
            if section or field.name not in sections:
                key = f"{section}.{field.name}" if section else field.name
                named = {"key": key, "meaning": meanings[field.name]}
                yield {**named, "default": usual[field.name], "value": here[field.name]}


def meanings_of(kind: type) -> dict[str, str]:
    """Return what a class says of its attributes."""
    text = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): ((?:.+\n?)(?:^ {8}.+\n?)*)", text, re.MULTILINE)
    return {name: f"{' '.join(words.split())[:1].upper()}{' '.join(words.split())[1:]}" for name, words in entries}


def _toml(value: Any) -> str:
    """Return a value as TOML, which writes strings, numbers, lists and truth as JSON does."""
    if isinstance(value, dict):  # an inline table
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
