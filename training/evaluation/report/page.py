"""The report of an evaluation: one HTML file without scripts or links to other files, for a screen or a phone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from model.files import write_whole
from training.data.samples import spread
from training.evaluation.classification import COVERAGES, class_rows, confused_pairs, reliability, risk_coverage
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure
from training.evaluation.mark_tables import MarkResult
from training.evaluation.report import grids, plots, words
from training.evaluation.report.mark_grids import mark_grids
from training.evaluation.report.photos import SHOWN, Album, PairMaps, best, undecided, worst
from training.evaluation.report.unknown_grids import unknown_grids
from training.evaluation.tables import HEADLINES, MapRow, Value
from training.evaluation.unknown import UnknownResult

TEMPLATE = Path(__file__).with_name("report.html")
CONFUSED = 15
"""Lines of the table of confused pairs."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What the report shows.

    Attributes:
        title: of the network.
        evaluation: the answers for every photo.
        figures: by their names in JSON.
        rows: the table of maps; empty where nothing is known of where things are.
        marks: what was found of the marks; None where the network has none.
        pair_maps: makes the contrast maps of look-alikes.
        provenance: what makes the figures repeatable: a value, or values by name.
        recipe: of the network; None where it is unknown.
        banner: rows cropped off the bottom of every photo, pixels.
        unknown: what was found of photos of unknown things.
    """

    title: str
    evaluation: Evaluation
    figures: Mapping[str, Value]
    rows: Sequence[MapRow]
    pair_maps: PairMaps
    provenance: Mapping[str, Any]
    recipe: Mapping[str, Any] | None = None
    banner: int = 0
    marks: MarkResult | None = None
    unknown: Sequence[UnknownResult] = ()


@dataclass(frozen=True)
class Card:
    """A figure as the report shows it.

    Attributes:
        word: its name and meaning.
        figure: with its interval.
        chance: the centred Gaussian's; None where chance has no such figure.
        verdict: what both say together; empty without chance.
        scale: plot of it.
    """

    word: words.Word
    figure: Figure
    chance: Figure | None
    verdict: str
    scale: str


def write_report(contents: Contents, path: Path) -> None:
    """Write the report.

    Raises:
        WriteError: it could not be written.
    """
    write_whole(path, render(contents))


def render(contents: Contents) -> str:
    """Return the report, HTML."""
    evaluation, figures = contents.evaluation, contents.figures
    probabilities, labels, names = evaluation.probabilities, evaluation.labels, evaluation.names
    predicted = probabilities.argmax(axis=1)
    album = Album(evaluation, contents.banner)
    classes = class_rows(predicted, labels, names)
    chance = next((row.figures for row in contents.rows if row.name == words.GAUSSIAN and row.photos == "all"), {})
    looking = [name for name, (kind, _) in HEADLINES.items() if kind != words.GAUSSIAN]
    surest = {share: figures.get(f"top1_of_surest_{round(100 * share)}") for share in COVERAGES}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    written = (words.number, words.interval, words.shown, words.stated, words.hundredths)
    environment.filters |= {write.__name__: write for write in written}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=contents.title,
        count=len(labels),
        num_classes=len(names),
        seen_classes=len(classes),
        size=evaluation.resize.crop,
        figures=figures,
        naming=list(_cards(words.NAMING, figures, {})),
        knowing=list(_cards(words.KNOWING, figures, {})),
        looking=list(_cards(looking, figures, chance)),
        boxed=any(known.region(evaluation.resize.crop) is not None for known in evaluation.annotations),
        parts=any(known.parts for known in evaluation.annotations),
        maps=grids.map_grids(contents.rows),
        seeing=list(_cards(words.SEEING, figures, {})),
        marks=mark_grids(contents.marks, figures),
        marked=[album.marked(index) for index in spread(range(len(labels)), SHOWN)] if contents.marks else [],
        unknown=unknown_grids(contents.unknown),
        faithfulness=grids.faithfulness_grid(figures),
        sanity=grids.sanity_grid(figures),
        further=grids.further_grid(figures),
        reliability=plots.reliability_plot(reliability(probabilities, labels)),
        risk=plots.risk_plot(
            risk_coverage(probabilities.max(axis=1), evaluation.right),
            [(share, figure) for share, figure in surest.items() if isinstance(figure, Figure)],
        ),
        pairs=confused_pairs(predicted, labels, names)[:CONFUSED],
        look_alikes=album.look_alikes(contents.pair_maps),
        best=[album.shown(index) for index in best(probabilities, labels)],
        worst=[album.shown(index) for index in worst(probabilities, labels)],
        undecided=[album.shown(index) for index in undecided(probabilities)],
        classes=sorted(classes, key=lambda row: (row.recall.value, row.f1)),
        provenance=dict(flat(contents.provenance)),
        recipe=None if contents.recipe is None else dict(flat(contents.recipe)),
        attention=evaluation.prediction.attention is not None,
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cards(names: Sequence[str], figures: Mapping[str, Value], chance: Mapping[str, Figure]) -> Iterator[Card]:
    """Yield the figures that there are, each beside the centred Gaussian's."""
    for name in names:
        figure = figures.get(name)
        if isinstance(figure, Figure):
            beside = chance.get(HEADLINES[name][1]) if name in HEADLINES else None
            said = "" if beside is None else grids.verdict(figure, beside)
            low = -1.0 if figure.low < 0 else 0.0
            high = 1.0 if figure.high <= 1 else figure.high * 1.2
            yield Card(words.FIGURES[name], figure, beside, said, plots.whisker(figure, beside, low, high))
