"""The comparison's table: means, paired differences with their intervals, and conclusions."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from model.files import replacing

BASELINE = "plain"
CONTROLS = ("unguided", "guided-uniform", "guided-shuffled")
"""Arms that the guided one is compared with beside plain: does the content of its target matter?"""
CONFIDENCE = 0.95

Result = dict[str, Any]
"""Arm, seed and figures of one run, by name."""


@dataclass(frozen=True)
class Difference:
    """The difference between two arms, over the seeds that both have.

    Attributes:
        arm: compared.
        against: the arm it is compared with.
        pairs: number of seeds.
        mean: of arm − against.
        low: lower end of the 95% t-interval; NaN with fewer than two pairs.
        high: its upper end.
    """

    arm: str
    against: str
    pairs: int
    mean: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether there is an interval and it excludes zero."""
        return self.low > 0 or self.high < 0

    def verdict(self) -> str:
        """Return the conclusion from the interval in words."""
        if self.pairs < 2:
            return "one seed: no interval"
        if not self.shown:
            return "contains zero: no difference shown"
        return "better" if self.low > 0 else "worse"


def by_arm(results: Iterable[Result], metric: str) -> dict[str, dict[int, float]]:
    """Return arm → seed → value of a metric; runs that diverged have none."""
    table: dict[str, dict[int, float]] = {}
    for result in results:
        values = table.setdefault(result["arm"], {})
        if metric in result:
            values[result["seed"]] = float(result[metric])
    return table


def paired_difference(table: dict[str, dict[int, float]], arm: str, against: str) -> Difference | None:
    """Return the difference over common seeds with its 95% t-interval; None without these, and of an arm to itself."""
    seeds = sorted(table.get(arm, {}).keys() & table.get(against, {}).keys())
    if not seeds or arm == against:
        return None
    differences = np.array([table[arm][seed] - table[against][seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    if count < 2:
        return Difference(arm, against, count, mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * stats.sem(differences))
    return Difference(arm, against, count, mean, mean - half, mean + half)


def markdown(results: Sequence[Result], plan: dict[str, Any]) -> str:
    """Return the table, the guidance against its controls, and the conclusions, as Markdown."""
    recipe = plan["recipe"]
    lines = [
        f"# {plan['dataset']}: {recipe['network']['backbone']}, recipe `{recipe['name']}`",
        "",
        f"{recipe['optim']['epochs']} epochs, {recipe['data']['input_size']} px, one recipe for all arms; top-1 on "
        f"the whole test part in %, mean ± standard deviation over seeds; differences against {BASELINE} are paired "
        f"by seed, with a {CONFIDENCE:.0%} t-interval.",
        "",
        f"| arm | seeds | top-1 | held-out top-1 | ECE | pointing game | − {BASELINE} | {CONFIDENCE:.0%} interval | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    table = by_arm(results, "top1")
    lines += [_row(results, table, arm) for arm in table]
    against = [name for name in CONTROLS if name in table]
    if "guided" in table and against:
        lines += ["", "**The guidance against its controls** (top-1, paired by seed):", ""]
        lines += ["| guided − | seeds | difference | interval | |", "|---|---|---|---|---|"]
        for name in against:
            if found := paired_difference(table, "guided", name):
                lines.append(f"| {name} | {found.pairs} | {_cells(found)} |")
    gaussian = [result["centred_gaussian"] for result in results if "centred_gaussian" in result]
    if gaussian:
        lines += [
            "",
            f"Pointing game of a centred Gaussian, which does not depend on the image: {100 * np.mean(gaussian):.1f}.",
        ]
    for result in results:
        if "diverged" in result:
            lines += ["", f"{result['arm']}, seed {result['seed']}: {result['diverged']}"]
    return "\n".join([*lines, "", conclusion(table), ""])


def conclusion(table: dict[str, dict[int, float]]) -> str:
    """Return one paragraph: which differences are shown and which are not."""
    sentences = []
    for arm in table:
        if found := paired_difference(table, arm, BASELINE):
            verdict = (
                "the interval excludes zero" if found.shown else "the interval contains zero, so no difference is shown"
            )
            ending = "one seed shows nothing" if found.pairs < 2 else verdict
            sentences.append(f"{arm} − {BASELINE}: {100 * found.mean:+.2f} points; {ending}.")
    return " ".join(sentences) or f"There is no arm beside {BASELINE} to compare."


def results_csv(results: Sequence[Result]) -> str:
    """Return CSV: one line per run with every figure."""
    columns = list(dict.fromkeys(name for result in results for name in result))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue()


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw every run as a point, and each arm's difference from plain with its interval."""
    from matplotlib.figure import Figure

    table = by_arm(results, "top1")
    arms = list(table)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, arm in enumerate(arms):
        values = [100 * value for value in table[arm].values()]
        left.plot(values, [row] * len(values), "o", color="#7a8ca3", alpha=0.8)
        if values:
            left.plot(np.mean(values), row, "|", color="#12355b", markersize=18, markeredgewidth=2.5)
        if found := paired_difference(table, arm, BASELINE):
            error = 0.0 if math.isnan(found.low) else 100 * (found.high - found.mean)
            colour = "#c1440e" if found.shown else "#7a8ca3"
            right.errorbar(100 * found.mean, row, xerr=error, fmt="o", capsize=4, color=colour)
    right.axvline(0, color="black", linewidth=0.8)
    left.set(yticks=range(len(arms)), yticklabels=arms, xlabel="top-1, % (every run, and the mean)")
    left.invert_yaxis()
    right.set_xlabel(f"top-1 − {BASELINE}, points ({CONFIDENCE:.0%} interval; grey: contains zero)")
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _row(results: Sequence[Result], table: dict[str, dict[int, float]], arm: str) -> str:
    cells = [arm, str(len(table[arm])), _mean_and_deviation(table[arm])]
    others = ("held_out_top1", "ece", "pointing_game")
    cells += [_mean_and_deviation(by_arm(results, metric).get(arm, {})) for metric in others]
    found = paired_difference(table, arm, BASELINE)
    return f"| {' | '.join(cells)} | {_cells(found) if found else ' | | '} |"


def _cells(found: Difference) -> str:
    interval = "" if math.isnan(found.low) else f"{100 * found.low:+.2f} … {100 * found.high:+.2f}"
    return f"{100 * found.mean:+.2f} | {interval} | {found.verdict()}"


def _mean_and_deviation(values: dict[int, float]) -> str:
    if not values:
        return "–"
    numbers = 100 * np.array(list(values.values()))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")
