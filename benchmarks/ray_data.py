"""How fast `classify --ray local` is beside `classify` in one process, on the cores of this machine.

    python -m benchmarks.ray_data --photos FOLDER [--pairs N] [--model FILE|FOLDER]

Both classify the same photos, in turns, each in a process of its own. The start is apart: the clock runs from the
moment when each worker has delivered its first rows until the last rows, and of what is counted one batch is left out,
which the workers had begun. Photos a second is what a quiet machine shows; on a busy one the processor time a photo, of
all processes, says how much of two full cores either job would use. The exit status is 1 where Ray gives less than 0.85
of the photos a second.
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
import psutil
from service.commands.folder.table.files import TableOfFiles as Files
from service.commands.folder.table.parts import PartedTable as Parted

def used():
    here = psutil.Process()
    total = 0
    for one in (here, *here.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:2])
        except psutil.Error:
            pass
    return total

skipped, seen, start, ends = int(sys.argv.pop(1)), [], [], []
for kind in (Files, Parted):
    def add(self, rows, before=kind.add):
        before(self, rows)
        count = rows.num_rows if hasattr(rows, "num_rows") else len(rows)
        seen.append((time.monotonic(), count))
        if len(seen) == skipped:
            start.append(used())
    kind.add = add
    def finish(self, before=kind.finish):
        ends.append(used())
        before(self)
    kind.finish = finish
from service.cli import main
code = main()
count = sum(rows for _, rows in seen[skipped:])
print(json.dumps([count, seen[-1][0] - seen[skipped - 1][0], ends[0] - start[0]]), file=sys.stderr)
sys.exit(code)
"""


def main() -> int:
    """Measure, print, and return 1 where the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    cores, ratios, costs = usable_cores(), [], []
    print(f"{cores} cores, {options.pairs} pairs")
    for _ in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            one = measured(options, f"{folder}/one.parquet", 1, left_out=0)
            many = measured(options, f"{folder}/many", cores, "--ray", "local", left_out=BATCH)
            tables = [pyarrow.dataset.dataset(f"{folder}/{name}").to_table() for name in ("one.parquet", "many")]
            assert tables[0].sort_by("path").equals(tables[1].sort_by("path")), "the rows differ"
        ratios.append(many[0] / one[0])
        costs.append(many[1] / one[1])
        print(
            f"one process {one[0]:.1f} photos/s, {one[1]:.1f} ms of processor a photo; "
            f"Ray {many[0]:.1f} photos/s, {many[1]:.1f} ms; {ratios[-1]:.2f} times the photos, "
            f"{costs[-1]:.2f} times the processor time; {tables[0].num_rows} rows equal",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(f"Ray: {ratio:.3f} ({min(ratios):.3f} … {max(ratios):.3f}) times the photos a second,")
    print(f"{statistics.median(costs):.3f} ({min(costs):.3f} … {max(costs):.3f}) times the processor time a photo")
    return int(ratio < LIMIT)


def measured(
    options: argparse.Namespace, out: str, workers: int, *arguments: str, left_out: int
) -> tuple[float, float]:
    """Return photos a second, and processor time a photo in ms.

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
    count, seconds, processor_s = json.loads(done.stderr.splitlines()[-1])
    return (count - left_out) / seconds, 1000 * processor_s / count


if __name__ == "__main__":
    sys.exit(main())
