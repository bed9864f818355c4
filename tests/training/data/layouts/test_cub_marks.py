"""CUB's 312 attributes as marks: people's words, each once."""

from pathlib import Path

import pytest

from model.contract.labels import label_fault
from training.data.datasets import load_dataset
from training.data.layouts.cub_marks import mark_of
from training.data.marks import Mark


@pytest.mark.parametrize(
    ("source", "part", "value", "name"),
    [
        ("has_crown_color::yellow", "crown", "yellow", "yellow crown"),
        ("has_bill_shape::hooked_seabird", "bill", "hooked seabird", "hooked seabird bill"),
        ("has_bill_shape::curved_(up_or_down)", "bill", "curved", "curved bill"),
        ("has_bill_length::about_the_same_as_head", "bill", "as long as the head", "bill as long as the head"),
        ("has_wing_pattern::striped", "wing", "striped", "striped wing"),
        ("has_wing_shape::tapered-wings", "wing", "tapered", "tapered wings"),
        ("has_tail_shape::fan-shaped_tail", "tail", "fan-shaped", "fan-shaped tail"),
        ("has_upper_tail_color::buff", "uppertail", "buff", "buff uppertail"),
        ("has_head_pattern::malar", "head", "malar", "malar stripe"),
        ("has_leg_color::red", "leg", "red", "red legs"),
        ("has_primary_color::blue", "overall", "blue", "mostly blue"),
        ("has_size::very_large_(32_-_72_in)", "overall", "very large (32–72 in)", "very large (32–72 in)"),
        ("has_shape::long-legged-like", "overall", "long-legged", "long-legged shape"),
        ("webbed_feet", "overall", "webbed feet", "webbed feet"),
    ],
)
def test_attributes_are_named_as_people_say_them(source: str, part: str, value: str, name: str) -> None:
    """By part, value and name; one that is not of CUB's form keeps its words."""
    assert Mark(name, part, value, source) == mark_of(source)


def test_all_of_cubs_attributes_are_marks(cub_dir: Path) -> None:
    """312 marks in the order of the table, no two alike, none in the notation of the file."""
    dataset = load_dataset(cub_dir)
    assert dataset.marks is not None
    assert dataset.attributes is not None
    marks = dataset.marks.marks
    assert dataset.attributes.names == tuple(mark.source for mark in marks)
    assert (50, 312) == dataset.marks.table.shape
    assert 312 == len({mark.name for mark in marks}) == len({(mark.part, mark.value) for mark in marks})
    assert [] == [mark.name for mark in marks if label_fault(mark.name) or set(mark.name) & set("_:/")]
    parts = (
        "back belly bill breast crown eye forehead head leg nape overall tail throat underparts undertail upperparts"
    )
    assert {*parts.split(), "uppertail", "wing"} == {mark.part for mark in marks}
