"""The summary in a model card: between its comments, at its end, or not at all."""

from pathlib import Path

import pytest

from tests.training.evaluation.report.conftest import Contents, Make
from training.errors import TrainingError
from training.evaluation.report.card import END, HEADING, START, check_card, insert, summary, write_card


def test_the_summary_has_figures_intervals_and_chance(make: Make) -> None:
    """And by which command, commit and model they were made."""
    contents = make()
    text = summary(contents.figures, list(contents.rows), contents.provenance, "6 photos of birds, part `test`")
    assert text.startswith("6 photos of birds, part `test`; every figure")
    assert "`c0ffee`, 2026-01-02, model `abababababab…`" in text
    assert "```sh\nevaluate 'x'\n```" in text
    assert "| Top-1 | 66.7% | 30.0–90.3% | 6 |" in text
    assert "| Grad-CAM | " in text
    assert "| centred Gaussian (chance) | " in text


def test_the_summary_has_the_marks(marked: Contents) -> None:
    """Their figures and tables, with what the columns mean; none of them without marks."""
    arguments = (marked.figures, list(marked.rows), marked.provenance, "6 photos")
    text = summary(*arguments, marked.marks)
    assert "| Marks hit their part | " in text
    assert "| the same by the class alone | " in text.lower()
    for start in ("Where the marks are read (hits: the map's", "Part by part (", "Evidence in place (", "Is seen what"):
        assert f"\n\n{start}" in text
    assert "| middle of the true box (chance) | " in text
    assert "| all parts | 85.0% " in text
    assert "hits" not in summary(*arguments)


def test_nothing_is_said_of_maps_without_annotations(make: Make) -> None:
    """No boxes, masks or parts: no table of maps."""
    contents = make(located=False)
    text = summary(contents.figures, list(contents.rows), contents.provenance, "6 photos")
    assert "Grad-CAM" not in text
    assert "box" not in text


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_the_rest_of_the_card_stays(tmp_path: Path, line: str) -> None:
    """The summary replaces the one before it, in the card's own line ends."""
    card = tmp_path / "CARD.md"
    card.write_bytes(f"# Kärtchen{line}{START}old{END} {line}  end".encode())
    for _ in range(2):
        write_card(card, "new\ntext")
    assert card.read_bytes().decode() == f"# Kärtchen{line}{START}{line}new{line}text{line}{END} {line}  end"


@pytest.mark.parametrize(
    ("card", "gap"), [("", ""), ("# Card", "\n\n"), ("# Card\n", "\n")], ids=["empty", "no-newline", "newline"]
)
def test_a_card_without_comments_gets_it_at_its_end(tmp_path: Path, card: str, gap: str) -> None:
    """Under a heading; a second summary replaces the first, and a missing card is made."""
    path = tmp_path / "CARD.md"
    if card:
        path.write_text(card)
    write_card(path, "one")
    write_card(path, "two")
    assert path.read_text() == f"{card}{gap}{HEADING}\n\n{START}\ntwo\n{END}\n"


@pytest.mark.parametrize("card", [START, END, f"{END}{START}", f"{START}{START}{END}", f"{START}{END}{END}"])
def test_comments_that_are_no_pair_are_refused(card: str) -> None:
    """It is not clear what they would replace."""
    with pytest.raises(TrainingError, match="once each, or neither"):
        insert(card, "text")


def test_a_card_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """And stays as it is."""
    (tmp_path / "CARD.md").write_bytes("é".encode("latin-1"))
    with pytest.raises(TrainingError, match="not UTF-8"):
        check_card(tmp_path / "CARD.md")


def test_folder_of_a_new_card_is_made(tmp_path: Path) -> None:
    """A card may be the first file of its folder."""
    write_card(tmp_path / "models" / "CARD.md", "| top-1 |")
    assert "| top-1 |" in (tmp_path / "models" / "CARD.md").read_text(encoding="utf-8")
