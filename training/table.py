"""The comparison's table: means with intervals, paired differences, and what may be concluded from them."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.files import replacing, write_whole
from training.evaluation.figures import LEVEL, Figure
from training.pairs import AIM, BASELINE, Difference, differences, mean_of
from training.predictions import PREDICTIONS
from training.results import Result, Runs, by_arm, number

OTHERS = {
    "held_out_top1": "held-out top-1",
    "ece": "ECE",
    "pointing_game": "pointing game",
    "part_pointing": "part pointing",
    "contrast_score": "contrast score × 100",
}
"""Metrics shown beside top-1, where they were measured."""
METRICS = {
    "top1": "top-1",
    "pointing_game": "pointing game of the Grad-CAM",
    "part_pointing": "part pointing of the Grad-CAM",
    "contrast_score": "contrast score",
}
"""Metrics in which arms are paired."""
MCNEMAR = (
    "McNemar's exact test counts each photo once, for the arm that names it rightly with more seeds: it tests whether "
    "these networks differ on photos like these. The interval also holds for training again."
)
COLOURS = {BASELINE: "#12355b", "unguided": "#c1440e", "guided-uniform": "#3f7d4e", "guided-shuffled": "#8a5ba6"}
"""Of the differences, by what they are against."""


def write_tables(runs: Runs, out: Path) -> None:
    """Write table.md, table.csv, pairs.csv, table.png, and table.json, which has it all."""
    pairs = pairs_of(runs)
    contents = {
        "results": runs.results,
        "top1": {arm: figure.to_dict() for arm, figure in top1_of(runs).items()},
        "pairs": [pair.to_dict() for pair in pairs],
    }
    write_whole(out / "table.json", json.dumps(contents, indent=2) + "\n")
    write_whole(out / "table.md", markdown(runs, pairs))
    write_whole(out / "table.csv", results_csv(runs.results))
    write_whole(out / "pairs.csv", results_csv([pair.to_dict() for pair in pairs]))
    draw(runs, pairs, out / "table.png")


def pairs_of(runs: Runs) -> list[Difference]:
    """Return every arm's metric against plain and against every control: top-1, and where the maps point."""
    known = {name for result in runs.results for name in result}
    return [
        pair
        for metric in METRICS
        if metric in known
        for pair in differences(by_arm(runs.results, metric), runs.by_photo(metric), metric)
    ]


def top1_of(runs: Runs) -> dict[str, Figure]:
    """Return the mean of every arm's top-1 over its seeds, with its interval."""
    photos = runs.by_photo("top1")
    return {arm: mean_of(values, photos.get(arm, {})) for arm, values in by_arm(runs.results, "top1").items()}


def markdown(runs: Runs, pairs: Sequence[Difference]) -> str:
    """Return the table, each arm against plain and its controls, and what may be concluded."""
    plan, results, recipe = runs.plan, runs.results, runs.plan["recipe"]
    arms, known = top1_of(runs), {name for result in results for name in result}
    others = {name: words for name, words in OTHERS.items() if name in known}
    lines = [
        f"# {plan['dataset']}: {recipe['network']['backbone']}, recipe `{recipe['name']}`",
        "",
        f"{recipe['optim']['epochs']} epochs, {recipe['data']['input_size']} px, one recipe for all arms. In %: mean ± "
        f"standard deviation over seeds, with the {LEVEL:.0%} interval of the mean. Top-1 is on the whole test part; "
        "its interval is for other seeds and other photos, those in brackets for other seeds alone.",
        "",
        f"| {' | '.join(['arm', 'seeds', 'top-1', f'{LEVEL:.0%} interval', *others.values()])} |",
        "|---|---|---|---|" + "---|" * len(others),
        *(_row(results, arm, figure, others) for arm, figure in arms.items()),
    ]
    lines += _paired([pair for pair in pairs if pair.metric == "top1"])
    lines += _pointed([pair for pair in pairs if pair.metric != "top1" and _matters(pair)])
    gaussian = [number(result["centred_gaussian"]) for result in results if "centred_gaussian" in result]
    if gaussian:
        lines += ["", f"Pointing game of a centred Gaussian, which sees nothing: {100 * np.mean(gaussian):.1f}."]
    for result in results:
        if "diverged" in result:
            lines += ["", f"{result['arm']}, seed {result['seed']}: {result['diverged']}"]
    if missing := _without_predictions(runs):
        lines += ["", missing]
    return "\n".join([*lines, "", conclusion(pairs), ""])


def conclusion(pairs: Iterable[Difference]) -> str:
    """Return, in one paragraph, which differences were shown: of every arm to plain, of guided to its controls too."""
    sentences = []
    for pair in pairs:
        if pair.metric != "top1" or not _matters(pair):
            continue
        words = f"{pair.arm} − {pair.against}: {100 * pair.mean:+.2f} points"
        if pair.seeds < 2:
            sentences.append(f"{words} with one seed, which shows nothing.")
        elif pair.shown:
            sentences.append(f"{words}; the interval excludes zero.")
        else:
            sentences.append(f"{words}; the interval contains zero, so no difference is shown.")
    if not sentences:
        return f"There is no arm beside {BASELINE} to compare."
    if len(sentences) > 1:
        sentences.append(f"Of intervals like these, one in {1 / (1 - LEVEL):.0f} excludes zero by chance alone.")
    return " ".join(sentences)


def results_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each run, or pair, with every figure; ends of intervals have columns of their own."""
    flat = [dict(_cells(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def draw(runs: Runs, pairs: Sequence[Difference], path: Path) -> None:
    """Draw every run as a point with its arm's interval, and each arm's differences with theirs."""
    from matplotlib.figure import Figure as Drawing

    table, arms = by_arm(runs.results, "top1"), top1_of(runs)
    pairs = [pair for pair in pairs if pair.metric == "top1"]
    references = list(dict.fromkeys(pair.against for pair in pairs))
    figure = Drawing(figsize=(11, 1.6 + 0.55 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = {arm: row for row, arm in enumerate(arms)}
    for arm, mean in arms.items():
        left.plot([100 * value for value in table[arm].values()], [rows[arm]] * len(table[arm]), "o", color="#7a8ca3")
        left.errorbar(100 * mean.value, rows[arm], xerr=_half(mean), fmt="|", capsize=4, color="#12355b", markersize=18)
    for pair in pairs:
        offset = 0.17 * (references.index(pair.against) - (len(references) - 1) / 2)
        right.errorbar(
            100 * pair.mean,
            rows[pair.arm] + offset,
            xerr=_half(Figure(pair.mean, pair.low, pair.high, pair.photos)),
            fmt="o",
            capsize=3,
            markersize=5,
            color=COLOURS[pair.against],
            markerfacecolor=COLOURS[pair.against] if pair.shown else "white",
        )
    right.axvline(0, color="black", linewidth=0.8)
    left.set(yticks=range(len(arms)), yticklabels=arms, xlabel=f"top-1, %: every run; mean with {LEVEL:.0%} interval")
    left.invert_yaxis()
    right.set_xlabel(f"difference in top-1, points, with {LEVEL:.0%} interval (hollow: contains zero)")
    for name in references:
        right.plot([], [], "o", color=COLOURS[name], label=f"− {name}")
    if references:
        figure.legend(loc="outside upper right", ncols=len(references), frameon=False)
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _matters(pair: Difference) -> bool:
    """Return whether a difference is of the question: an arm against plain, or the guidance against a control."""
    return pair.against == BASELINE or pair.arm == "guided"


def _row(results: Sequence[Result], arm: str, top1: Figure, others: Iterable[str]) -> str:
    """Return an arm's line of the table."""
    values = by_arm(results, "top1")[arm]
    cells = [arm, str(len(values)), _mean_and_deviation(values), _ends(top1)]
    for metric in others:
        values = by_arm(results, metric).get(arm, {})
        mean = mean_of(values, {})
        ends = "" if math.isnan(mean.low) else f" ({_ends(mean)})"
        cells.append(_mean_and_deviation(values) + ends)
    return f"| {' | '.join(cells)} |"


def _paired(pairs: Sequence[Difference]) -> list[str]:
    """Return the table of differences in top-1."""
    if not pairs:
        return []
    by_photo = any(pair.photos for pair in pairs)
    return [
        "",
        f"**Each arm against {BASELINE} and the controls** (top-1, points; the same seeds"
        + (" and photos, both resampled" if by_photo else "; a t-interval over them")
        + " for both arms):",
        "",
        f"| arm − | | seeds | difference | {LEVEL:.0%} interval | ± | | McNemar p | seeds for ±{100 * AIM:.0f} |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {pair.arm} | − {pair.against} | {pair.seeds} | {100 * pair.mean:+.2f} | {_points(pair)} | "
            f"{_half_width(pair)} | {pair.verdict()} | {_p(pair)} | {_seeds(pair)} |"
            for pair in pairs
        ),
        *(["", MCNEMAR] if by_photo else []),
    ]


def _pointed(pairs: Sequence[Difference]) -> list[str]:
    """Return the table of differences in where the maps point."""
    if not pairs:
        return []
    return [
        "",
        "**Where the maps point** (× 100; paired likewise, over the photos that count in every run):",
        "",
        f"| arm − | | metric | seeds | photos | difference | {LEVEL:.0%} interval | |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {pair.arm} | − {pair.against} | {METRICS[pair.metric]} | {pair.seeds} | {pair.photos or '–'} | "
            f"{100 * pair.mean:+.2f} | {_points(pair)} | {pair.verdict()} |"
            for pair in pairs
        ),
    ]


def _without_predictions(runs: Runs) -> str:
    """Return a sentence on runs whose predictions are missing, or nothing."""
    trained = [result for result in runs.results if "top1" in result]
    count = sum((result["arm"], result["seed"]) not in runs.predictions for result in trained)
    if not count:
        return ""
    return (
        f"{count} of {len(trained)} runs have no `{PREDICTIONS}` (an older version did not keep it): pairs with them "
        "are by seed alone, with a t-interval that does not hold for other photos."
    )


def _cells(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return the cells of a line of CSV: an object's members become `name`, `name_low`, `name_high`, `name_n`."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((name if key == "value" else f"{name}_{key}", item) for key, item in value.items())
        else:
            yield name, " ".join(map(str, value)) if isinstance(value, list) else value


def _points(pair: Difference) -> str:
    return "" if math.isnan(pair.low) else f"{100 * pair.low:+.2f} … {100 * pair.high:+.2f}"


def _half_width(pair: Difference) -> str:
    return "" if math.isnan(pair.low) else f"{100 * pair.half_width:.2f}"


def _p(pair: Difference) -> str:
    if math.isnan(pair.p):
        return "–"
    return "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}"


def _seeds(pair: Difference) -> str:
    if pair.seeds_for_aim is not None:
        return str(pair.seeds_for_aim)
    return "more photos" if pair.photos and pair.seeds > 1 else "–"


def _half(figure: Figure) -> float:
    """Return half the width of an interval in points; 0 where there is none."""
    return 0.0 if math.isnan(figure.low) else 100 * (figure.high - figure.low) / 2


def _ends(figure: Figure) -> str:
    return "" if math.isnan(figure.low) else f"{100 * figure.low:.1f} … {100 * figure.high:.1f}"


def _mean_and_deviation(values: Mapping[int, float]) -> str:
    if not values:
        return "–"
    numbers = 100 * np.array(list(values.values()))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")
