"""The comparison's table: means, paired differences with their intervals, and what may be concluded from them."""

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
"""What the guided arm is set against besides plain: does the content of its target matter?"""
CONFIDENCE = 0.95

Result = dict[str, Any]
"""Of one run: arm, seed and figures by name."""


@dataclass(frozen=True)
class Difference:
    """An arm against another, over the seeds that both have.

    Attributes:
        arm: the one.
        against: the other.
        pairs: number of seeds.
        mean: of arm − other.
        low: end of the 95% t-interval; NaN with fewer than two pairs.
        high: its other end.
    """

    arm: str
    against: str
    pairs: int
    mean: float
    low: float
    high: float

    def verdict(self) -> str:
        """Say plainly what the interval allows to say."""
        if self.pairs < 2:
            return "one seed: no interval"
        if self.low <= 0 <= self.high:
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
    """Return the difference over common seeds with its 95% t-interval; None without common seeds."""
    seeds = sorted(table.get(arm, {}).keys() & table.get(against, {}).keys())
    if not seeds:
        return None
    differences = np.array([table[arm][seed] - table[against][seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    if count < 2:
        return Difference(arm, against, count, mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    return Difference(arm, against, count, mean, mean - half, mean + half)


def markdown(results: Sequence[Result], plan: dict[str, Any]) -> str:
    """Return the table, the guidance against its controls, and what may be concluded."""
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
        lines += ["", f"Pointing game of a centred Gaussian, which sees nothing: {100 * np.mean(gaussian):.1f}."]
    for result in results:
        if "diverged" in result:
            lines += ["", f"{result['arm']}, seed {result['seed']}: {result['diverged']}"]
    return "\n".join([*lines, "", conclusion(table), ""])


def conclusion(table: dict[str, dict[int, float]]) -> str:
    """Return, in one paragraph, which differences were shown and which were not."""
    sentences = []
    for arm in table:
        found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
        if found is None:
            continue
        words = f"{arm} − {BASELINE}: {100 * found.mean:+.2f} points"
        if found.pairs < 2:
            sentences.append(f"{words} with one seed, which shows nothing.")
        elif found.low <= 0 <= found.high:
            sentences.append(f"{words}; the interval contains zero, so no difference is shown.")
        else:
            sentences.append(f"{words}; the interval excludes zero.")
    return " ".join(sentences) or f"There is no arm beside {BASELINE} to compare."


def results_csv(results: Sequence[Result]) -> str:
    """Return one line a run with every figure."""
    columns = list(dict.fromkeys(name for result in results for name in result))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue()


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw every run as a point, and each arm's difference against plain with its interval."""
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
        found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
        if found is not None:
            error = 0.0 if math.isnan(found.low) else 100 * (found.high - found.mean)
            shown = found.pairs > 1 and not found.low <= 0 <= found.high
            right.errorbar(
                100 * found.mean, row, xerr=error, fmt="o", capsize=4, color="#c1440e" if shown else "#7a8ca3"
            )
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
    found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
    return f"| {' | '.join(cells)} | {_cells(found) if found else ' | | '} |"


def _cells(found: Difference) -> str:
    interval = "" if math.isnan(found.low) else f"{100 * found.low:+.2f} … {100 * found.high:+.2f}"
    return f"{100 * found.mean:+.2f} | {interval} | {found.verdict()}"


def _mean_and_deviation(values: dict[int, float]) -> str:
    if not values:
        return "–"
    numbers = 100 * np.array(list(values.values()))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")
