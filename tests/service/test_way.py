"""The way of a request, as it is walked: which modules it calls on a running server, and in which order."""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from service.settings import Settings
from tests.service.conftest import encoded
from tests.service.running import Running, running

ROOT = str(Path(__file__).parents[2]) + os.sep
MOST_MODULES = 17
ONE_EACH = ("model.photo", "model.contract", "service.decision")
"""Rooms whose modules count as one."""
ASKED_AT_THE_DOOR = {"service.inference.load", "service.inference.models"}
"""Looked up before the body is read: whether there is room, and whether there is such a model."""
BELOW_HTTP = ("service.inference", "service.drawing", "model")


@dataclass
class Way:
    """What was called while the record ran.

    Attributes:
        recording: whether calls are recorded.
        first: modules in the order of their first call, `ONE_EACH` folded.
        upward: calls from a room below HTTP up into it, as `CALLER -> CALLED`.
    """

    recording: bool = False
    first: dict[str, str] = field(default_factory=dict)
    upward: set[str] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Record a call; installed as the profile function of all threads."""
        if event != "call" or not self.recording or not frame.f_code.co_filename.startswith(ROOT):
            return
        module, name = _module(frame), frame.f_code.co_qualname
        if not module.startswith(("service.", "model.")) or name.startswith("DrainingServer."):  # uvicorn's tick
            return
        self.first.setdefault(module, name)
        caller = frame.f_back
        while caller is not None and not _module(caller).startswith(("service.", "model.")):
            caller = caller.f_back
        if caller is not None and module.startswith("service.http") and _module(caller).startswith(BELOW_HTTP):
            self.upward.add(f"{_module(caller)} -> {module}:{name}")


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return next((room for room in ONE_EACH if name.startswith(room)), name)


@pytest.fixture(scope="module")
def walked() -> Iterator[tuple[Running, Way]]:
    """Return a server of the bundled model whose calls can be recorded in every thread."""
    way = Way()
    threading.setprofile(way)
    try:
        with running(Settings(device="cpu", poll_interval_s=3600)) as server:
            yield server, way
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]


def walk(walked: tuple[Running, Way], path: str, accept: str = "*/*") -> Way:
    """Send a photo, recorded from its first byte to its log line; the one before it has warmed all caches."""
    server, way = walked
    photo = encoded("teal", (400, 300), "JPEG")
    headers = {"Content-Type": "image/jpeg", "Accept": accept}
    way.first, way.upward = {}, set()
    with server.client() as client:
        client.post(path, content=photo, headers=headers).raise_for_status()
        server.until(lambda: server.runtime.load.requests == 0)
        way.recording = True
        client.post(path, content=photo, headers=headers).raise_for_status()
        server.until(lambda: server.runtime.load.requests == 0)
        way.recording = False
    return way


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool has the trace")
def test_a_classification_passes_few_modules(walked: tuple[Running, Way]) -> None:
    """One `POST /classify` calls at most 17 modules: protocol and door, photo, model, answer and what it decides."""
    way = walk(walked, "/classify")
    assert len(way.first) <= MOST_MODULES, "\n".join(f"{module}: {name}" for module, name in way.first.items())
    order = [module for module in way.first if module not in {*ASKED_AT_THE_DOOR, "service.metrics"}]
    rooms = [_room(module) for module in order if module != "model.contract"]
    changes = [room for before, room in zip(["", *rooms], rooms, strict=False) if room != before]
    assert ["service.http", "model.photo", "service.inference", "service.http", "service.decision"] == changes, order
    assert "service.http.answers" == order[-2]
    assert way.upward == set()


@pytest.mark.parametrize("accept", ["image/png", "application/json"])
def test_no_call_goes_up_into_http(walked: tuple[Running, Way], accept: str) -> None:
    """What runs in a worker, drawing included, never calls what knows of HTTP."""
    way = walk(walked, "/explain?versus=rank:2&view=panel", accept)
    assert {"service.drawing.views", "service.http.explain", "service.inference.engine"} <= set(way.first)
    assert set() == way.upward


def _room(module: str) -> str:
    return module if module.startswith("model.") else ".".join(module.split(".")[:2])
