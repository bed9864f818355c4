"""The plots of the report as inline SVG: numbers and fixed words alone, so nothing in it needs escaping."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from training.evaluation.classification import Bin
from training.evaluation.figures import Figure
from training.evaluation.scores import Floats

LEFT, TOP, SIDE = 54, 10, 300
"""Margins and side of the square that is plotted in, units of the view."""
TICKS = (0, 0.25, 0.5, 0.75, 1)
COUNTS = 44
"""Height of the strip of counts below the reliability plot."""
MOST_POINTS = 300


def reliability_plot(bins: Sequence[Bin]) -> Markup:
    """Return share right against stated probability, with intervals, and the number of photos below each."""
    most = max((bar.accuracy.n for bar in bins), default=1)
    base = TOP + SIDE + 40 + COUNTS
    parts = [
        _frame(SIDE + 56 + COUNTS, "share right by stated probability", 1.0),
        f'<path class="guide" d="{_line([0, 1], [0, 1])}"/>',
    ]
    for bar in bins:
        x, y, figure = _x(bar.confidence), _y(bar.accuracy.value), bar.accuracy
        tall = COUNTS * figure.n / most
        parts.append(
            f"<g><title>{figure.n} photos, stated {bar.confidence:.0%}, right {figure.value:.0%} "
            f"({figure.low:.0%}–{figure.high:.0%})</title>"
            f'<path class="whisker" d="M{x:.1f} {_y(figure.low):.1f}V{_y(figure.high):.1f}"/>'
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<rect class="count" x="{x - 6:.1f}" y="{base - tall:.1f}" width="12" height="{tall:.1f}"/>'
            f'<text class="tiny" x="{x:.1f}" y="{base + 11:.1f}" text-anchor="middle">{_short(figure.n)}</text></g>'
        )
    parts.append(_axis("stated probability", "share right"))
    parts.append(f'<text class="tiny" x="{LEFT - 4}" y="{base + 11}" text-anchor="end">photos</text>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - numbers and fixed words


def risk_plot(risk: Floats, selective: Sequence[tuple[float, Figure]]) -> Markup:
    """Return the error rate of the most confident photos against their share.

    Args:
        risk: error rate of the 1, 2, … n most confident photos.
        selective: coverage → share right there, with its interval.
    """
    chosen = np.unique(np.linspace(0, len(risk) - 1, min(MOST_POINTS, len(risk))).round().astype(int))
    highest = max([float(risk.max()), *(1 - figure.low for _, figure in selective), 0.05])
    top = next(limit for limit in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= limit or limit == 1.0)
    last = float(risk[-1])
    parts = [
        _frame(SIDE + 38, "error rate by share of photos answered", top),
        f'<path class="guide" d="{_line([0, 1], [last / top] * 2)}"/>',
        f'<path class="curve" d="{_line((chosen + 1) / len(risk), risk[chosen] / top)}"/>',
    ]
    for coverage, figure in selective:
        low, high, value = ((1 - number) / top for number in (figure.high, figure.low, figure.value))
        parts.append(
            f"<g><title>the most confident {coverage:.0%}: {1 - figure.value:.1%} wrong "
            f"({1 - figure.high:.1%}–{1 - figure.low:.1%})</title>"
            f'<path class="whisker" d="M{_x(coverage):.1f} {_y(low):.1f}V{_y(high):.1f}"/>'
            f'<circle class="point" cx="{_x(coverage):.1f}" cy="{_y(value):.1f}" r="4.5"/></g>'
        )
    parts.append(_axis("share of photos answered", "share of them wrong"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 - numbers and fixed words


def whisker(figure: Figure, chance: Figure | None = None, low: float = 0.0, high: float = 1.0) -> Markup:
    """Return a figure's place between two ends, with its interval, and a tick where chance is."""

    def at(value: float) -> float:
        return 4 + 192 * min(1.0, max(0.0, (value - low) / (high - low)))

    if not np.isfinite([figure.value, figure.low, figure.high]).all():
        return Markup()
    tick = ""
    if chance is not None and np.isfinite(chance.value):
        x = at(chance.value)
        tick = f'<path class="chance" d="M{x:.1f} 1V17"><title>chance</title></path>'
    start, end = at(figure.low), at(figure.high)
    return Markup(  # noqa: S704 - numbers and fixed words
        '<svg class="scale" viewBox="0 0 200 18" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="grid" d="M4 9H196"/>'
        f'<rect class="range" x="{start:.1f}" y="5" width="{end - start:.1f}" height="8"/>'
        f'{tick}<rect class="point" x="{at(figure.value) - 1:.1f}" y="3" width="2" height="12"/></svg>'
    )


def _frame(height: int, label: str, top: float) -> str:
    """Return the opening of a plot with its grid and the numbers at its ticks."""
    width = LEFT + SIDE + 22
    grid = "".join(f"M{LEFT} {_y(tick):.1f}h{SIDE}M{_x(tick):.1f} {TOP}v{SIDE}" for tick in TICKS)
    numbers = "".join(
        f'<text x="{LEFT - 6}" y="{_y(tick) + 4:.1f}" text-anchor="end">{100 * tick * top:.3g}%</text>'
        f'<text x="{_x(tick):.1f}" y="{TOP + SIDE + 15}" text-anchor="middle">{100 * tick:.3g}%</text>'
        for tick in TICKS
    )
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height + TOP}" role="img" aria-label="{label}">'
        f'<path class="grid" d="{grid}"/>{numbers}'
    )


def _axis(across: str, up: str) -> str:
    """Return the names of both axes."""
    middle = TOP + SIDE / 2
    return (
        f'<text class="axis" x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 33}" text-anchor="middle">{across}</text>'
        f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{up}</text>'
    )


def _line(across: Sequence[float] | Floats, up: Sequence[float] | Floats) -> str:
    return "M" + "L".join(f"{_x(x):.1f} {_y(y):.1f}" for x, y in zip(across, up, strict=True))


def _x(share: float) -> float:
    return LEFT + SIDE * share


def _y(share: float) -> float:
    return TOP + SIDE * (1 - share)


def _short(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.3g}k"
