"""How fast `classify --ray local` is beside `classify` in one process, on the cores of this machine.

    python -m benchmarks.ray_data --photos FOLDER [--pairs N] [--model FILE|FOLDER]

Both classify the same photos, in turns, each in a process of its own. The start is apart: the clock runs from the
moment when each worker has delivered its first rows until the last rows, and of what is counted one batch is left out,
which the workers had begun. It wants a quiet machine. The exit status is 1 where Ray gives less than 0.85 of the photos
a second.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.dataset

from service.inference.cpus import usable_cores
from service.settings import BUNDLED_MODEL

LIMIT = 0.85
BATCH = 64
_MEASURED = """
import json, sys, time
from service.commands.folder.table.files import TableOfFiles as Files
from service.commands.folder.table.parts import PartedTable as Parted

skipped, seen = int(sys.argv.pop(1)), []
for kind in (Files, Parted):
    def add(self, rows, before=kind.add):
        before(self, rows)
        count = rows.num_rows if hasattr(rows, "num_rows") else len(rows)
        seen.append((time.monotonic(), count))
    kind.add = add
from service.cli import main
code = main()
count = sum(rows for _, rows in seen[skipped:])
print(json.dumps([count, seen[-1][0] - seen[skipped - 1][0]]), file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Measure, print, and return 1 where the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    cores, ratios = usable_cores(), []
    print(f"{cores} cores, {options.pairs} pairs")
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            one = measured(options, f"{folder}/one.parquet", 1, left_out=0)
            many = measured(options, f"{folder}/many", cores, "--ray", "local", left_out=BATCH)
            tables = [pyarrow.dataset.dataset(f"{folder}/{name}").to_table() for name in ("one.parquet", "many")]
            assert tables[0].sort_by("path").equals(tables[1].sort_by("path")), "the rows differ"
        ratios.append(many / one)
        print(
            f"one process {one:.1f} photos/s, Ray {many:.1f}: {ratios[-1]:.2f}; {tables[0].num_rows} rows equal",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(f"Ray: {ratio:.3f} ({min(ratios):.3f} … {max(ratios):.3f}) times the photos a second")
    return int(ratio < LIMIT)


def measured(options: argparse.Namespace, out: str, workers: int, *arguments: str, left_out: int) -> float:
    """Return photos a second.

    Args:
        options: of this command.
        out: where the rows go.
        workers: that deliver rows.
        arguments: further ones.
        left_out: photos that were begun before the clock ran.
    """
    command = ["classify", str(options.photos), "--model", str(options.model), "--out", out, *arguments]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(workers), *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert done.returncode in (0, 1), done.stderr.decode()
    count, seconds = json.loads(done.stderr.splitlines()[-1])
    return float((count - left_out) / seconds)


if __name__ == "__main__":
    sys.exit(main())
