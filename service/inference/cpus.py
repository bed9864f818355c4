"""How many cores this process may use: affinity and container limits, which ONNX Runtime ignores."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores for work, ≥ 1.

    Args:
        cgroup: where the container's limits are mounted, version 2 or 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota_cores(cgroup) or affinity))


def _quota_cores(cgroup: Path) -> int | None:
    """Return the container's limit in whole cores, rounded up; None where there is none."""
    try:
        if (version_2 := cgroup / "cpu.max").exists():
            quota, period = version_2.read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        cores = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None  # `max` or -1: no limit
    return cores if cores > 0 else None
