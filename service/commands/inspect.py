"""`fieldmark inspect FILE`: the contents of a model file, and whether the service would accept it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.contract.manifest import Embedding, Individual, Layer, Manifest, Marks, Novelty
from model.contract.sets import Sets
from model.terminal import plain
from service.inference.engine import OnnxEngine
from service.inference.sessions import ModelRejected, read_file
from service.inference.verified import verify_once
from service.settings import Settings

_SHOWN_LABELS, _SHOWN_MARKS = 6, 4


def inspect(file: Path, *, as_json: bool) -> int:
    """Print a model's manifest; returns the exit code.

    Raises:
        ModelRejected: the service would refuse the file; the message is the reason.
    """
    try:
        data = read_file(file)
        engine = OnnxEngine(data, Settings(device="cpu"), all_cores=False)
        sha256 = hashlib.sha256(data).hexdigest()
        verify_once(engine, sha256)
    except ModelRejected as error:
        raise error if file.name and file.name in str(error) else ModelRejected(f"{file}: {error}") from error
    manifest = engine.manifest
    facts = {"file": str(file), "bytes": len(data), "sha256": sha256}
    if as_json:
        text = json.dumps({**facts, **manifest.model_dump(mode="json")}, indent=2, ensure_ascii=False)
    else:
        text = plain("\n".join(_lines(facts, manifest)))
    print(text)  # noqa: T201 - the command's result
    return 0


def _lines(facts: dict[str, Any], manifest: Manifest) -> list[str]:
    resize, provenance = manifest.resize, manifest.provenance
    labels = ", ".join(manifest.labels[:_SHOWN_LABELS]) + (", …" if manifest.num_classes > _SHOWN_LABELS else "")
    scaling = f"shorter side to {resize.size}" if resize.mode == "shorter_side" else f"stretched to {resize.size}"
    unknown = "not kept in int8" if manifest.precision == "int8" else "not built by this project"
    network = manifest.network.get("backbone", unknown)
    rows = [
        ("model", f"{manifest.name}, {facts['bytes'] / 1e6:.1f} MB, {facts['file']}"),
        ("sha256", facts["sha256"]),
        ("network", f"{network}, attention: {manifest.attention}{'' if manifest.has_attention else ' (no map)'}"),
        ("classes", f"{manifest.num_classes}: {labels}"),
        ("input", f"RGB {manifest.input_size}×{manifest.input_size}, {scaling}, centre crop"),
        ("", f"mean {_numbers(manifest.mean)}, std {_numbers(manifest.std)}"),
        ("precision", f"{manifest.precision}, weights stored as {manifest.weights_dtype}"),
        ("", _beside_fp32(manifest.metrics)),
        ("temperature", f"{manifest.temperature:.4g}"),
        *_named(
            "layers",
            [
                f"{index}: {layer.name}, {layer.channels} channels, {layer.grid[0]}×{layer.grid[1]}{_centres(layer)}"
                for index, layer in enumerate(manifest.layers)
            ],
        ),
        ("", f"maps drawn by {'the centres of cells' if manifest.placed_by_centres else 'equal cells'}"),
        ("marks", _marks(manifest.marks) if manifest.marks else "none"),
        ("embedding", _embedding(manifest.embedding) if manifest.embedding else "none"),
        ("novelty", _novelty(manifest.novelty) if manifest.novelty else "none"),
        ("individual", _individual(manifest.individual)),
        ("sets", _sets(manifest.sets) if manifest.sets else "none"),
        ("taxonomy", ", ".join(manifest.taxonomy.ranks) if manifest.taxonomy else "none"),
        ("data", f"{provenance.dataset}{f', {provenance.num_train} images' if provenance.num_train else ''}"),
        ("made", f"{provenance.created or 'unknown'}, seed {provenance.seed}, commit {provenance.commit}"),
        ("recipe", _recipe(provenance.recipe)),
        ("tools", ", ".join(f"{name} {version}" for name, version in provenance.tools.items())),
        ("licence", provenance.licence),
        *_named("metrics", [f"{name} {value:.4g}" for name, value in manifest.metrics.items()]),
        *_named("parity", [f"{name} {value:.3g}" for name, value in manifest.parity.items()]),
        ("self-check", f"{len(manifest.self_check.logits)} synthetic images" if manifest.self_check else "none"),
        ("operators", f"{sum(manifest.operators.values())}: {_counts(manifest.operators)}"),
    ]
    return [f"{name:12} {value}".rstrip() for name, value in rows if value]


def _named(name: str, lines: list[str]) -> list[tuple[str, str]]:
    """Return rows of which only the first carries the name."""
    return [(name if index == 0 else "", line) for index, line in enumerate(lines)]


def _beside_fp32(metrics: Mapping[str, float]) -> str:
    """Return how a smaller precision compares with fp32, as far as its export measured it."""
    same, median, count = (metrics.get(f"gate.{name}") for name in ("same_class", "spearman_median", "images"))
    if same is None or median is None or count is None:
        return ""
    photos = "photos that it was trained on" if metrics.get("gate.trained_on") else "photos"
    return f"names fp32's class on {same:.1f}% of {count:.0f} {photos}; median rank correlation of maps {median:.3f}"


def _centres(layer: Layer) -> str:
    if layer.centres is None:
        return ""
    x, y, step_x, step_y = layer.centres
    return f", cells centred on pixel {x:g} + {step_x:g}·column, {y:g} + {step_y:g}·row"


def _marks(marks: Marks) -> str:
    names = ", ".join(mark.name for mark in marks.marks[:_SHOWN_MARKS])
    names += ", …" if marks.num_marks > _SHOWN_MARKS else ""
    parts = len({mark.part for mark in marks.marks})
    lacking = "" if marks.missing else "; none is reported as missing"
    return f"{marks.num_marks} of {parts} parts, {marks.maps} on {marks.grid[0]}×{marks.grid[1]}: {names}{lacking}"


def _embedding(embedding: Embedding) -> str:
    return f"{embedding.size} numbers" + (f", axes of {embedding.num_photos} photos" if embedding.num_photos else "")


def _individual(individual: Individual | None) -> str:
    if individual is None:
        return "not fitted: of several photos the geometric mean"
    return f"of n photos each counts n^-{individual.dependence:g}, fitted to {individual.num_photos} photos"


def _novelty(novelty: Novelty) -> str:
    return f"{novelty.method}, unlike all classes above {novelty.threshold:.4g}, {novelty.num_photos} photos"


def _sets(sets: Sets) -> str:
    own = sum(len(group.classes) for group in sets.groups)
    return f"{sets.method}, {sets.num_photos} photos, {own} classes calibrated on their own"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _counts(operators: dict[str, int]) -> str:
    most_first = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in most_first)


def _recipe(recipe: dict[str, Any]) -> str:
    """Return a recipe's name, or its plain settings; its tables are for `--json`."""
    if "name" in recipe:
        return str(recipe["name"])
    return ", ".join(f"{name} {value}" for name, value in recipe.items() if not isinstance(value, dict | list))
