"""How many cores this process may really use: affinity and container limits, which ONNX Runtime does not look at."""

import math
import os
from pathlib import Path

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu_max: Path = CGROUP_CPU_MAX) -> int:
    """Return the number of cores for work, ≥ 1.

    Args:
        cpu_max: cgroup v2 file with `QUOTA PERIOD` in microseconds, or `max PERIOD`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota_cores(cpu_max)))


def _quota_cores(cpu_max: Path) -> int:
    """Return the container's limit in whole cores (rounded up), or a number that limits nothing."""
    try:
        quota, period = cpu_max.read_text().split()
        return math.ceil(int(quota) / int(period)) if quota != "max" else 1_000_000
    except (OSError, ValueError, ZeroDivisionError):
        return 1_000_000
