"""Which models were verified on this machine before: commands do not verify them again.

An empty file for each, in the user's cache folder (freedesktop.org's base directories). Its name is a hash of all that
the outcome depends on: the model, the checks, ONNX Runtime and the processor. What runs on a GPU is always verified,
since that also warms its sessions.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from service.inference import verify
from service.inference.engine import Engine, OnnxEngine
from service.inference.files import external_data
from service.inference.sessions import CPU, runtime
from service.settings import Settings

MOST = 256
"""Most models remembered; beyond, the one remembered first is forgotten."""

_CPU_FIELDS = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def open_once(data: bytes, settings: Settings) -> Engine:
    """Open a model for few photos, and search it for external data unless it was verified on this machine before.

    Raises:
        ModelRejected: see `OnnxEngine`.
    """
    known = _is_remembered(hashlib.sha256(data).hexdigest())
    return OnnxEngine(data, settings, known=known, all_cores=False)


def _is_remembered(sha256: str) -> bool:
    with contextlib.suppress(OSError, RuntimeError):  # there may be no home folder
        return (_folder() / _key(sha256)).is_file()
    return False


def verify_once(engine: Engine, sha256: str) -> None:
    """Verify an engine in full, unless its file was verified on this machine before.

    Where the cache cannot be read or written, nothing is remembered.

    Args:
        engine: of the file.
        sha256: of the file, hexadecimal.

    Raises:
        ModelRejected: it does not compute what was exported.
        WorkerLost: the GPU is gone.
    """
    on_cpu = engine.provider == CPU
    if on_cpu and _is_remembered(sha256):
        return
    verify.verify(engine)
    if on_cpu:
        with contextlib.suppress(OSError, RuntimeError):  # there may be no home folder
            _remember(_folder() / _key(sha256))


def _remember(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    others = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for old in others[:-MOST]:
        old.unlink(missing_ok=True)


def _folder() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "fieldmark" / "verified"


def _key(sha256: str) -> str:
    checks = "\n".join(
        hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in (verify, external_data)
    )
    return hashlib.sha256("\n".join((sha256, checks, runtime().__version__, CPU, _processor())).encode()).hexdigest()


def _processor() -> str:
    """Return what the first processor is and can do; empty where the system has no such file."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        return "\n".join(line for line in first.splitlines() if line.startswith(_CPU_FIELDS))
    return ""
