"""`fieldmark doctor`: can this installation answer photos? One line a check, for people and for scripts."""

import asyncio
import json
import logging
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal, NamedTuple

from model.terminal import one_line, plain
from service.commands.running import started
from service.inference.sessions import CUDA, ModelRejected, runtime
from service.settings import Settings


class Finding(NamedTuple):
    """The outcome of a check.

    Attributes:
        status: `failed` where photos cannot be answered, `warning` where something is worse than it could be.
        check: its name.
        words: what was found.
    """

    status: Literal["ok", "warning", "failed"]
    check: str
    words: str


def doctor(settings: Settings, *, as_json: bool) -> int:
    """Print what is installed and what works; returns the exit code, 1 where a check failed."""
    findings = []
    for check in (_installed, _runtime, _model, _photos, _training, _port):
        found = check(settings)
        findings.append(found)
        if not as_json:
            print(plain(f"{found.status:8} {found.check + ':':10} {one_line(found.words)}"), flush=True)  # noqa: T201
    if as_json:
        print(json.dumps({"checks": [one._asdict() for one in findings]}, indent=2, ensure_ascii=False))  # noqa: T201
    return int(any(one.status == "failed" for one in findings))


def versions() -> str:
    """Return the versions of fieldmark and its runtime, and the providers that the runtime offers, in one line."""
    try:
        ort = runtime()
        providers = ", ".join(ort.get_available_providers())
        return f"fieldmark {installed('fieldmark')}, ONNX Runtime {ort.__version__} ({providers})"
    except ModelRejected:
        return f"fieldmark {installed('fieldmark')}, no ONNX Runtime"


def installed(package: str) -> str:
    """Return a package's version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _installed(settings: Settings) -> Finding:
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    packages = ", ".join(f"{name} {installed(name)}" for name in ("fieldmark", "numpy", "pillow", "fastapi"))
    return Finding("ok", "installed", f"{packages}; {python}")


def _runtime(settings: Settings) -> Finding:
    try:
        ort = runtime()
    except ModelRejected as error:
        return Finding("failed", "runtime", str(error))
    words = f"ONNX Runtime {ort.__version__}, offers {', '.join(ort.get_available_providers())}"
    if "not installed" not in (installed("onnxruntime"), installed("onnxruntime-gpu")):
        return Finding("warning", "runtime", f"{words}; onnxruntime and onnxruntime-gpu overwrite each other's files: "
                       "uninstall both, then install one")  # fmt: skip
    return Finding("ok", "runtime", words)


def _model(settings: Settings) -> Finding:
    """Load the model as a service does: it is warmed, and its answers compared with those at its export."""
    logging.getLogger("service.inference").setLevel(logging.CRITICAL)  # the findings say the same
    logging.getLogger("service.inference.files.priors").setLevel(logging.ERROR)  # of these they say nothing
    try:
        return asyncio.run(_loaded(settings))
    except ModelRejected as error:
        return Finding("failed", "model", str(error))


async def _loaded(settings: Settings) -> Finding:
    async with started(settings, once=False) as service:
        served = service.models.get()
    provider = served.engine.provider
    words = f"{served.name} version {served.version} loads, answers as at its export, and runs on {provider}"
    if settings.device == "auto" and CUDA in runtime().get_available_providers() and provider != CUDA:
        return Finding("warning", "model", f"{words}; CUDA is offered and cannot be used (driver, CUDA or cuDNN)")
    return Finding("ok", "model", words)


def _photos(settings: Settings) -> Finding:
    formats = settings.formats.split(",")
    if "HEIC" in formats and find_spec("pillow_heif") is None:
        others = ", ".join(name for name in formats if name != "HEIC")
        return Finding("warning", "photos", f"{others}, but no HEIC: pip install 'fieldmark[heif]'")
    return Finding("ok", "photos", ", ".join(formats))


def _training(settings: Settings) -> Finding:
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        return Finding("ok", "training", "not installed, and needed by fieldmark-train alone: 'fieldmark[training]'")
    return Finding("ok", "training", f"torch {installed('torch')}, torchvision {installed('torchvision')}")


def _port(settings: Settings) -> Finding:
    place = f"port {settings.port} on {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return Finding("failed", "port", f"{place} cannot be listened on: {error.strerror or error}")
    return Finding("ok", "port", f"{place} is free")
