"""Grids of comparisons: data sets × backbones × arms × seeds from a TOML file, as a numbered list that machines share.

Every machine gets the same file and does every N-th run of the list into a folder of its own, so no machine waits for
another and nothing is locked; `training.results.merge` makes one table of the folders.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from model.network.config import STRICT
from training.errors import RecipeError

Arms = Annotated[list[str], Field(min_length=1)]
Seeds = Annotated[list[NonNegativeInt], Field(min_length=1)]


@checked(frozen=True, config=STRICT)
class Entry:
    """One `[[run]]` of the file: arms × seeds, with each of the data sets, backbones and weights of the guidance.

    What is left out is as the command's options say.

    Attributes:
        arms: names in `training.arms`.
        seeds: of every arm.
        data: folder of the data set, or several; relative to the working directory, as `--data`.
        backbone: torchvision's name, or several.
        weights: of the backbone at the start, as `--weights`.
        weight: lambda, the recipe's `guidance.weight`, or several.
        set: other changes of the recipe, by `section.key`.
        name: of the folder, where data set, backbone and lambda are not enough to distinguish entries.
    """

    arms: Arms
    seeds: Seeds
    data: str | list[str] | None = None
    backbone: str | list[str] | None = None
    weights: str | None = None
    weight: NonNegativeFloat | list[NonNegativeFloat] | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None


@checked(frozen=True, config=STRICT)
class File:
    """The whole file.

    Attributes:
        run: its entries.
    """

    run: Annotated[list[Entry], Field(min_length=1)]


@dataclass(frozen=True)
class Setting:
    """What the runs of one comparison share.

    Attributes:
        name: of its folder.
        data: folder of the data set.
        weights: of the backbone at the start, as `--weights`; None: that option's.
        changes: of the recipe, by `section.key`.
    """

    name: str
    data: str
    weights: str | None
    changes: dict[str, Any]


@dataclass(frozen=True)
class GridRun:
    """One run of the list.

    Attributes:
        setting: what its comparison shares.
        arm: its name.
        seed: of weights, order and augmentation.
    """

    setting: Setting
    arm: str
    seed: int

    def line(self, number: int) -> dict[str, Any]:
        """Return what a list shows of it."""
        setting = self.setting
        changes = {name: value for name, value in setting.changes.items() if name != "network.backbone"}
        return {
            "number": number,
            "comparison": setting.name,
            "arm": self.arm,
            "seed": self.seed,
            "data": setting.data,
            "backbone": setting.changes.get("network.backbone"),
            "weights": setting.weights,
            "changes": changes,
        }


def read_grid(path: Path, data: str | None) -> list[GridRun]:
    """Return the runs of a grid, in the order of the file; one that is in it twice is listed once.

    Args:
        path: of the file.
        data: folder of the data set where an entry names none.

    Raises:
        RecipeError: no TOML, an unknown key, a value that makes no sense, or two settings in one folder.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = TypeAdapter(File).validate_json(json.dumps(values, default=str)).run  # as recipes are
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(_faults(error))}") from error
    runs: dict[tuple[str, str, int], GridRun] = {}
    settings: dict[str, Setting] = {}
    for index, entry in enumerate(entries, 1):
        for setting in _settings(entry, data, f"{path}: run {index}"):
            if settings.setdefault(setting.name, setting) != setting:
                raise RecipeError(
                    f"{path}: run {index} has other settings than an earlier one with the same folder "
                    f"{setting.name!r}: give it a name"
                )
            for seed, arm in product(entry.seeds, entry.arms):
                runs.setdefault((setting.name, arm, seed), GridRun(setting, arm, seed))
    return list(runs.values())


def _settings(entry: Entry, data: str | None, where: str) -> list[Setting]:
    """Return every combination of an entry's data sets, backbones and weights of the guidance."""
    if entry.data is None and data is None:
        raise RecipeError(f"{where}: no data: give it here or by --data")
    several = any(isinstance(value, list) for value in (entry.data, entry.backbone, entry.weight))
    found = []
    for folder, backbone, weight in product(_each(entry.data or data), _each(entry.backbone), _each(entry.weight)):
        recipe = {} if weight is None else {"guidance.weight": weight}
        recipe |= entry.set
        differs = [f"{key.rpartition('.')[2]}={value}" for key, value in recipe.items()]
        name = "-".join([Path(folder).resolve().name, *filter(None, [backbone]), *differs])
        if entry.name is not None:
            name = f"{entry.name}-{name}" if several else entry.name
        if backbone is not None:
            recipe["network.backbone"] = backbone
        found.append(Setting(_as_folder(name), folder, entry.weights, recipe))
    return found


def _as_folder(name: str) -> str:
    """Return a name without what a folder's cannot have, or hides it."""
    return re.sub(r"[^\w.=+-]+", "-", name).lstrip(".") or "unnamed"


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _faults(error: ValidationError) -> list[str]:
    """Return what is wrong, with the number of the entry, counted from 1."""
    found = []
    for fault in error.errors():
        place = [str(part + 1) if isinstance(part, int) else str(part) for part in fault["loc"]]
        found.append(f"{' '.join(place)}: {fault['msg'].removeprefix('Input ')}")
    return found
