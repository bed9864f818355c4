"""Grids: what a file expands to, and what is wrong with one."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.grid import read_grid

GRID = """
[[run]]
data = "birds/CUB"
backbone = "mobilenet_v2"
weights = "w.pth"
arms = ["plain", "guided"]
seeds = [0, 1]
weight = 0.1

[[run]]
data = ["birds/CUB", "cars"]
arms = ["guided"]
seeds = [0]
weight = [0.1, 1]
set = { "guidance.temperature" = 2.0 }
"""


def expand(tmp_path: Path, text: str, data: str | None = None) -> list[tuple[str, str, int]]:
    """Return the list of a grid: folder, arm, seed."""
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return [(run.setting.name, run.arm, run.seed) for run in read_grid(path, data)]


def test_a_grid_is_a_numbered_list(tmp_path: Path) -> None:
    """Data sets × lambdas × seeds × arms, in the order of the file; complete pairs first."""
    assert expand(tmp_path, GRID) == [
        ("CUB-mobilenet_v2-weight=0.1", "plain", 0),
        ("CUB-mobilenet_v2-weight=0.1", "guided", 0),
        ("CUB-mobilenet_v2-weight=0.1", "plain", 1),
        ("CUB-mobilenet_v2-weight=0.1", "guided", 1),
        ("CUB-weight=0.1-temperature=2.0", "guided", 0),
        ("CUB-weight=1.0-temperature=2.0", "guided", 0),
        ("cars-weight=0.1-temperature=2.0", "guided", 0),
        ("cars-weight=1.0-temperature=2.0", "guided", 0),
    ]
    runs = read_grid(tmp_path / "grid.toml", None)
    assert {"network.backbone": "mobilenet_v2", "guidance.weight": 0.1} == runs[0].setting.changes
    assert ("w.pth", None) == (runs[0].setting.weights, runs[4].setting.weights)
    assert {"number": 1, "arm": "plain", "backbone": "mobilenet_v2"}.items() <= runs[0].line(1).items()


def test_machines_share_a_grid_by_index(tmp_path: Path) -> None:
    """Every N-th run from the I-th: together all, none twice."""
    runs = expand(tmp_path, GRID)
    shares = [runs[index - 1 :: 3] for index in (1, 2, 3)]
    assert sorted(runs) == sorted(run for share in shares for run in share)


def test_more_seeds_of_some_arms_go_into_the_same_comparison(tmp_path: Path) -> None:
    """What is in the file twice is done once."""
    text = """
[[run]]
arms = ["plain", "se"]
seeds = [0]
[[run]]
arms = ["plain"]
seeds = [0, 1]
"""
    assert [("cub", "plain", 0), ("cub", "se", 0), ("cub", "plain", 1)] == expand(tmp_path, text, "cub")


def test_a_name_is_the_folders(tmp_path: Path) -> None:
    """It leaves nothing of paths in it, and does not climb out of the folder."""
    text = '[[run]]\nname = "../a b"\narms = ["plain"]\nseeds = [0]\n'
    assert [("-a-b", "plain", 0)] == expand(tmp_path, text, "cub")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run = [", "Invalid"),
        ("", "run: Field required"),
        ("[[run]]\narms = []\nseeds = [0]", "run 1 arms: List should have at least 1 item"),
        ('[[run]]\narms = ["plain"]\nseeds = [0]\n[[run]]\narms = ["plain"]\nseeds = ["1"]', "run 2 seeds 1: "),
        ('[[run]]\narms = ["plain"]\nseeds = [0]\nlamda = 1', "run 1 lamda: Unexpected keyword argument"),
        ('[[run]]\narms = ["plain"]\nseeds = [0]', "run 1: no data: give it here or by --data"),
        (
            '[[run]]\ndata = "a"\nweights = "v"\narms = ["plain"]\nseeds = [0]\n'
            '[[run]]\ndata = "a"\narms = ["plain"]\nseeds = [0]',
            "run 2 has other settings than an earlier one with the same folder 'a': give it a name",
        ),
    ],
)
def test_a_fault_of_the_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    """It names the file, the entry and the key."""
    with pytest.raises(RecipeError) as caught:
        expand(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'grid.toml'}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
