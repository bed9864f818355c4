"""The attributes of CUB-200-2011 as marks: `has_crown_color::yellow` is a `yellow crown`."""

import re

from training.data.marks import OVERALL, Mark

_PARTS = {"upper_tail": "uppertail", "under_tail": "undertail", "primary": OVERALL, "": OVERALL}
_VALUES = {
    "about_the_same_as_head": "as long as the head",
    "chicken-like-marsh": "chicken-like marsh bird",
    "cone": "cone-shaped",
    "curved_(up_or_down)": "curved",
    "dagger": "dagger-shaped",
    "longer_than_head": "longer than the head",
    "long-legged-like": "long-legged",
    "multi-colored": "multi-coloured",
    "needle": "needle-like",
    "perching-like": "perching",
    "shorter_than_head": "shorter than the head",
    "solid": "solid-coloured",
    "specialized": "specialised",
    "tree-clinging-like": "tree-clinging",
    "upland-ground-like": "upland ground bird",
    "upright-perching_water-like": "upright-perching water bird",
}
"""What a value is called, where that is not how CUB writes it."""
_FORMS = {
    "bill_length": "bill {}",
    "eye_color": "{} eyes",
    "leg_color": "{} legs",
    "primary_color": "mostly {}",
    "shape": "{} shape",
    "size": "{}",
    "wing_shape": "{} wings",
}
"""Group → how its marks are named after their values; those of other groups by value and part."""
_NAMES = {
    "head_pattern::eyebrow": "eyebrow stripe",
    "head_pattern::eyeline": "eye line",
    "head_pattern::eyering": "eye ring",
    "head_pattern::malar": "malar stripe",
    "head_pattern::unique_pattern": "unique head pattern",
}
"""Marks with a name of their own."""
_INCHES = re.compile(r"_\((\d+)_-_(\d+)_in\)$")


def mark_of(source: str) -> Mark:
    """Return an attribute as a mark.

    Args:
        source: `has_GROUP::VALUE`, as CUB writes it; a group is a part and a kind, such as `crown_color`.
    """
    group, separator, written = source.removeprefix("has_").rpartition("::")
    if not separator:
        plain = written.replace("_", " ")
        return Mark(plain, OVERALL, plain, source)
    part = group.rpartition("_")[0]
    part = _PARTS.get(part, part.replace("_", " "))
    value = _value(written, part)
    form = _FORMS.get(group, f"{{}} {part}")
    name = _NAMES.get(f"{group}::{written}") or form.format(value)
    return Mark(name, part, value, source)


def _value(written: str, part: str) -> str:
    """Return a value as people say it; it need not repeat its part, as in `forked_tail`."""
    if written in _VALUES:
        return _VALUES[written]
    plain = _INCHES.sub(r" (\1–\2 in)", written)
    plain = re.sub(rf"[-_]{re.escape(part)}s?$", "", plain)
    return plain.replace("_", " ")
