"""The columns of a table of answers: they follow from the answer's own members, as `schemas` declares them.

A member that holds one value is a column of its name. A list of values is one column: numbers are separated by spaces,
texts by semicolons. A list of objects is numbered columns: `label_1`, `probability_1` of the predictions,
`marks_1_name` of any other.
So a member that the service adds to its answers has its columns here without a change.
"""

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from service.http.answers import Answer
from service.http.api.schemas import Classification, ClassifyOptions

NOT_IN_ROWS = ("model", "filename", "request_id")
"""Members that are the same in all rows, that the path says better, or that would differ from run to run."""
_BOUNDS = {"predictions": "top_k", "missing": "marks"}
"""The option that says how long a list of objects may be; elsewhere it has the list's own name."""
_WITH_VERSUS = "typical_versus"
"""A table has no contrast, and so not this."""
BETWEEN_TEXTS = "; "
"""Labels have spaces and commas in them."""
PATH, CODE, DETAIL = "path", "code", "detail"


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: in the table's first row.
        kind: of its cells: str, int, float or bool.
        steps: from a row to the cell, names of members and places in lists.
    """

    name: str
    kind: type
    steps: tuple[str | int, ...]

    def cell(self, row: Answer) -> Any:
        """Return a row's value; None where it has none."""
        value: Any = row
        for step in self.steps:
            try:
                value = value[step]
            except (KeyError, IndexError):
                return None
            if value is None:
                return None
        if isinstance(value, list):
            return (BETWEEN_TEXTS if any(isinstance(one, str) for one in value) else " ").join(map(str, value))
        return value


def columns_of(sample: Answer, options: ClassifyOptions, num_classes: int) -> tuple[Column, ...]:
    """Return the columns of a run.

    Args:
        sample: an answer to the same options: it shows which members this model and these options give.
        options: of the run.
        num_classes: of the model.
    """
    columns = [Column(PATH, str, (PATH,)), Column(CODE, str, (CODE,))]
    for name, field in Classification.model_fields.items():
        if name in NOT_IN_ROWS or name not in sample:
            continue
        kind, is_list = _kind_of(field.annotation)
        if not issubclass(kind, BaseModel):
            columns.append(Column(name, str if is_list else kind, (name,)))
            continue
        if not is_list:
            columns += _members(kind, (name,), lambda member, name=name: f"{name}_{member}")  # type: ignore[misc]
            continue
        most = getattr(options, _BOUNDS.get(name, name), None) or len(sample[name])
        for index in range(min(most, num_classes) if name == "predictions" else most):
            columns += _members(kind, (name, index), _naming(name, index + 1))
    return (*columns, Column(DETAIL, str, (DETAIL,)))


def row_of(path: str, answer: Answer) -> Answer:
    """Return the row of a photo: its path and what the service answers, without what differs from run to run."""
    return {PATH: path, **{name: value for name, value in answer.items() if name not in NOT_IN_ROWS}}


def problem_row(path: str, code: str, detail: str) -> Answer:
    """Return the row of a photo that has no answer."""
    return {PATH: path, CODE: code, DETAIL: detail}


def _naming(name: str, number: int) -> Callable[[str], str]:
    return lambda member: f"{member}_{number}" if name == "predictions" else f"{name}_{number}_{member}"


def _members(kind: type[BaseModel], steps: Sequence[str | int], naming: Callable[[str], str]) -> list[Column]:
    columns = []
    for name, field in kind.model_fields.items():
        if name != _WITH_VERSUS:
            inner, is_list = _kind_of(field.annotation)
            columns.append(Column(naming(name), str if is_list else inner, (*steps, name)))
    return columns


def _kind_of(annotation: Any) -> tuple[type, bool]:
    """Return what an annotation holds, and whether it is a list of it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind_of(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is list:
        return _kind_of(get_args(annotation)[0])[0], True
    return (annotation, False) if isinstance(annotation, type) else (str, False)
