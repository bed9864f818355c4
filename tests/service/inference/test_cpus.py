"""Cores by affinity and by the container's limits."""

import os
from pathlib import Path

import pytest

from service.inference.cpus import usable_cores

HERE = len(os.sched_getaffinity(0))


def write_limits(folder: Path, version: int, quota: str) -> Path:
    """Write a container's limit in the form of one cgroup version."""
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (folder / "cpu").mkdir()
        (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("150000", 2), ("9900000", HERE)])
def test_container_limit(tmp_path: Path, version: int, quota: str, cores: int) -> None:
    """A limit counts in whole cores, rounded up, and never beyond what the host has."""
    assert min(cores, HERE) == usable_cores(write_limits(tmp_path, version, quota))


@pytest.mark.parametrize(("version", "quota"), [(2, "max"), (1, "-1"), (2, "nonsense")])
def test_no_limit(tmp_path: Path, version: int, quota: str) -> None:
    """Without a limit, or with an unreadable one, all cores count."""
    assert usable_cores(write_limits(tmp_path, version, quota)) == HERE


def test_outside_a_container(tmp_path: Path) -> None:
    """Without any cgroup files, all cores count."""
    assert usable_cores(tmp_path) == HERE
