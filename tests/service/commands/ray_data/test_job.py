"""`fieldmark classify PATH… --out DIR --ray ADDRESS`: the rows of one machine, whatever happens to a worker."""

# ruff: noqa: F811 - fixtures of the neighbouring room

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from service.cli import main
from service.commands.folder.job import Stop
from service.metrics import service_version
from tests.service.commands.folder.conftest import here, many, photos  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),
    pytest.mark.filterwarnings("default"),  # Ray's own
]


class Deadly(LocalFileSystem):
    """Files that end the process that opens them: `once` the first time, `ever` each time."""

    protocol = "deadly"

    def open(self, path: str, *arguments: Any, **keywords: Any) -> Any:
        """Open a file, or end."""
        mark = Path(f"{path}.opened")
        if Path(path).name.startswith(("once", "ever")) and not (mark.exists() and "once" in mark.name):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(path, *arguments, **keywords)


@contextmanager
def running_ray(**settings: str) -> Iterator[str]:
    """Yield the address of this machine's Ray, as `--ray local` starts it, but without a token."""
    script = (
        "import sys\nfrom service.commands.ray_data.cluster import connected\nimport ray\n"
        "with connected('local'):\n"
        "    print(ray.get_runtime_context().gcs_address, file=sys.__stdout__, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"} | settings
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True, env=environment) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        yield running.stdout.readline().strip()
        running.stdin.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Yield the address of a Ray that all tests share."""
    with running_ray() as address:
        yield address


def test_rows_are_those_of_one_machine(
    photos: Path,
    model: str,
    here: Path,
    cluster: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All columns of good and bad photos; done ones are not done again, and other options are refused."""
    common = ["classify", "photos", "--model", model, "--threshold", "0.5"]
    assert main([*common, "--out", "one.parquet"]) == 1
    capsys.readouterr()
    for _ in range(2):
        assert main([*common, "--out", "many", "--ray", cluster]) == 1
        assert ("many: 11 photos, 4 of them bad, 2 other files\n", "") == capsys.readouterr()
    one, found = pq.read_table("one.parquet"), ds.dataset("many").to_table()
    assert one.sort_by("path").to_pylist() == found.sort_by("path").to_pylist()
    assert one.schema == found.schema
    assert ["part-000000.parquet"] == os.listdir("many")
    headers = [json.loads(Path(name).read_text()) for name in ("one.parquet.json", "many.json")]
    assert headers[0] == headers[1] | {"format": "parquet"}
    assert main([*common, "--out", "many", "--ray", cluster, "--top-k", "2"]) == 2
    assert "many is of another run: options.top_k 5 there, 2 here" in capsys.readouterr().err


def test_a_lost_worker_costs_nothing(many: Path, model: str, here: Path, cluster: str) -> None:
    """One that is killed is started again, and its photos are done again, each once."""
    fsspec.register_implementation("deadly", Deadly, clobber=True)
    (many / "0" / "once.png").write_bytes((many / "0" / "000.png").read_bytes())
    assert main(["classify", f"deadly://{many}", "--model", model, "--out", "rows", "--ray", cluster]) == 0
    names = sorted([*(f"{index % 3}/{index:03}.png" for index in range(300)), "0/once.png"])
    assert names == sorted(ds.dataset("rows").to_table()["path"].to_pylist())


def test_a_photo_that_ends_every_worker(
    many: Path,
    model: str,
    here: Path,
    cluster: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run ends in one line that says where; what is done is kept, and the next run does the rest."""
    fsspec.register_implementation("deadly", Deadly, clobber=True)
    deadly = many / "2" / "ever.png"
    deadly.write_bytes((many / "0" / "000.png").read_bytes())
    arguments = ["classify", f"deadly://{many}", "--model", model, "--out", "rows", "--ray", cluster]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"a worker (on [\d.]+|\(Ray's actor \w+\)) died", line)
    assert "photos are safe, and the same command goes on" in line
    deadly.unlink()
    Path(f"{deadly}.opened").unlink()
    assert main(arguments) == 0
    assert sorted(f"{index % 3}/{index:03}.png" for index in range(300)) == sorted(
        ds.dataset("rows").to_table()["path"].to_pylist()
    )


def test_machines_short_of_memory(
    photos: Path,
    model: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where Ray kills all that starts, before the work or in its midst, a run ends in one line that says where."""
    from service.commands.ray_data import watch

    monkeypatch.setattr(watch, "_QUIET_S", 0.0)
    arguments = ["classify", "photos", "--model", model, "--out", "rows"]
    with running_ray(RAY_memory_usage_threshold="0.0001", RAY_memory_monitor_refresh_ms="100") as address:
        for _ in range(2):
            assert main([*arguments, "--ray", address]) == 1
            out, line = capsys.readouterr()
            assert re.fullmatch(r".*: a worker on [\d.]+ ran out of memory again and again; 0 photos .*\n", line)
            assert out == ""
            monkeypatch.setattr(watch.Watch, "wait_for_room", lambda *_: None)  # as if memory had been there then


def test_a_cluster_without_room(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores that others hold are waited for, and machines that may join for a while; both are reported."""
    import ray

    from service.commands.ray_data import watch
    from service.commands.ray_data.actor import WorkerRefused
    from service.commands.ray_data.cluster import connected

    class Busy:
        pass

    with connected(cluster):
        busy = ray.remote(num_cpus=int(ray.cluster_resources()["CPU"]))(Busy).remote()
        ray.get(busy.__ray_ready__.remote())
        monkeypatch.setattr(watch, "_NOTICE_S", 0.0)
        lines: list[str] = []

        def report(line: str) -> None:
            lines.append(line)
            ray.kill(busy)

        watch.Watch(0.0, True, report).wait_for_room(Stop())
        assert ["no worker has started yet: waiting for a core for work that others may hold"] == lines
        monkeypatch.setattr(watch, "_PATIENCE_S", 0.1)
        with pytest.raises(WorkerRefused, match="no machine with 99 GPU joined in 0 minutes"):
            watch.Watch(99.0, True, lines.append).wait_for_room(Stop())
        assert "no machine has 99 GPU: waiting at most 0 minutes for one" == lines[1]
        with pytest.raises(WorkerRefused, match=r"no machine with 99 GPU$"):
            watch.Watch(99.0, False, lines.append).wait_for_room(Stop())
        assert len(lines) == 2


def test_what_a_worker_does_not_see(
    photos: Path,
    model: str,
    here: Path,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Photos that only this machine can read are no bad photos, and workers have this version: one line, no rows."""
    fsspec.filesystem("memory").put(str(photos / "a.png"), "/photos/a.png")
    arguments = ["classify", "memory://photos", "--model", model, "--out", "rows", "--ray", cluster]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot read a.png" in line
    assert "which this machine can" in line
    monkeypatch.setattr("service.commands.ray_data.job.service_version", lambda: "9")
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(", this machine 9; 0 photos are safe, and the same command goes on")
    assert f" {service_version()}, this" in line
    assert not Path("rows").exists()


def test_the_model_reaches_the_workers(model: str, cluster: str) -> None:
    """By its path, or through the object store; one that differs is refused."""
    import ray

    from service.commands.ray_data.actor import ModelFiles, WorkerRefused, fetch
    from service.commands.ray_data.cluster import connected

    path, data = Path(model), Path(model).read_bytes()
    hashes = {path.name: hashlib.sha256(data).hexdigest()}
    with connected(cluster):
        content = ray.put({path.name: data})
        for folder in (path.parent, path.parent / "not there"):
            assert {path.name: data} == fetch(ModelFiles(folder, hashes, content))
            with pytest.raises(WorkerRefused, match=r"has another tiny\.onnx"):
                fetch(ModelFiles(folder, {path.name: "0" * 64}, content))


def test_what_is_refused_before_the_work(
    photos: Path,
    model: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line each, and nothing is written."""
    (here / "mine").mkdir()
    (here / "mine" / "note.txt").touch()
    for arguments, said in (
        (["--out", "rows", "--ray", "127.0.0.1:1"], "no cluster answers"),
        (["--out", "rows", "--ray", "ray://127.0.0.1:1"], "needs HOST:PORT"),
        (["--out", "rows", "--ray", "nonsense"], "HOST:PORT"),
        (["--ray", "local"], "`--out DIR`"),
        (["--out", "rows", "--format", "csv", "--ray", "local"], "`--out DIR`"),
        (["--out", "mine", "--ray", "local"], "is there already, and not of this command"),
    ):
        assert main(["classify", "photos", "--model", model, *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert ["mine", "photos"] == sorted(os.listdir(here))


def test_without_ray(photos: Path, model: str, here: Path) -> None:
    """One line that names the extra."""
    arguments = ["classify", "photos", "--model", model, "--out", "rows", "--ray", "local"]
    script = f"import sys; sys.modules['ray'] = None; from service.cli import main; sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (2, "fieldmark: `--ray` needs the extra `ray`: pip install 'fieldmark[ray]'.\n") == (
        done.returncode,
        done.stderr,
    )
