"""A light HTTP load generator: raw asyncio streams of prepared requests, in a process of its own.

A Python HTTP client costs more per request than this service does, and would measure itself. This one writes the
same bytes repeatedly and reads only status and length of an answer. Closed loop: each connection
sends its next request when the last is answered. Open loop: requests are sent at times fixed beforehand, and their
latency counts from that time, so that a stall is not hidden by requests that were never sent.

`python -m service.commands.bench.loadgen` reads a plan from stdin and writes the outcome to stdout, both JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

LOST = 0
"""Code of a request whose connection broke before its answer was complete."""
REFUSED = -1
"""Code of a request that got no connection."""
MAX_CONNECTIONS = 2048
PROBE_PAUSE_S = 0.1
"""Between two probes, which load the server themselves."""


@dataclass(frozen=True)
class Plan:
    """One run of load.

    Attributes:
        host: of the server.
        port: of the server.
        target: path and query.
        photos: files sent in turn as raw bodies.
        seconds: how long requests are sent.
        concurrency: connections of the closed loop; 0 for the open loop.
        rate: arrivals a second of the open loop.
        poisson: random arrivals instead of evenly spaced ones.
        headers: further header fields.
        probe: path requested throughout the load, for the event loop's lag; empty for none.
        max_requests: stop after so many requests; 0 for no limit.
        seed: of the random arrivals.
    """

    host: str
    port: int
    target: str
    photos: list[str]
    seconds: float
    concurrency: int = 0
    rate: float = 0.0
    poisson: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    probe: str = ""
    max_requests: int = 0
    seed: int = 0


@dataclass
class Outcome:
    """Measurements of one run of load.

    Attributes:
        seconds: from the first request to the last answer.
        requests: [time of the request, latency, code, photo] of every request, seconds.
        probe_s: latencies of the probe, seconds.
        cpu_s: CPU time of the server, None where unknown; not measured by the generator itself.
        loop_cpu_s: CPU time of the server's event loop thread; likewise.
        client_cpu_s: CPU time of the generator, probes included.
    """

    seconds: float = 0.0
    requests: list[tuple[float, float, int, int]] = field(default_factory=list)
    probe_s: list[float] = field(default_factory=list)
    cpu_s: float | None = None
    loop_cpu_s: float | None = None
    client_cpu_s: float = 0.0


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time and returns the code of its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._head = b""
        self._missing = -1
        self._code = LOST
        self.reusable = False

    async def send(self, request: bytes) -> int:
        """Send a request and return the code of its answer, or `LOST` or `REFUSED`."""
        if self._transport is None:
            return REFUSED
        if self._transport.is_closing():
            return LOST
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._missing, self.reusable = b"", -1, False
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        """Count the missing bytes of an answer."""
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(self._head[:end].lower())
            self._missing -= len(self._head) - end - 4
        else:
            self._missing -= len(data)
        if self._missing <= 0 and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._code)

    def _read_head(self, head: bytes) -> None:
        self._code = int(head[9:12])
        self._missing = 0
        self.reusable = b"connection: close" not in head
        at = head.find(b"content-length:")
        if at >= 0:
            self._missing = int(head[at + 15 :].split(b"\r\n", 1)[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a missing answer as lost."""
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(LOST)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


class Generator:
    """Sends the requests of a plan.

    Args:
        plan: what to send.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bodies = [_request(plan, Path(photo).read_bytes()) for photo in plan.photos]
        self._next = 0
        self._free: deque[Connection] = deque()
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Run the plan."""
        probe = asyncio.create_task(self._probe()) if self._plan.probe else None
        started, cpu_started = time.perf_counter(), time.process_time()
        if self._plan.concurrency:
            await asyncio.gather(*(self._closed(started) for _ in range(self._plan.concurrency)))
        else:
            await self._open(started)
        self._outcome.seconds = time.perf_counter() - started
        self._outcome.client_cpu_s = time.process_time() - cpu_started
        if probe is not None:
            probe.cancel()
        for connection in self._free:
            connection.close()
        return self._outcome

    async def _closed(self, started: float) -> None:
        """Send the next request when the last is answered."""
        while time.perf_counter() - started < self._plan.seconds and self._more():
            await self._send(None, started)

    async def _open(self, started: float) -> None:
        """Send at fixed times, over as many connections as needed."""
        tasks: set[asyncio.Task[None]] = set()
        for offset in _arrivals(self._plan):
            if not self._more():
                break
            due = started + offset
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            task = asyncio.create_task(self._send(due, started))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(set(tasks))

    async def _send(self, due: float | None, started: float) -> None:
        """Send one request; its latency counts from `due`, else from the time it is sent."""
        connection = await self._connected()
        due = time.perf_counter() if due is None else due
        photo = self._next % len(self._bodies)
        self._next += 1
        code = await connection.send(self._bodies[photo])
        self._outcome.requests.append((due - started, time.perf_counter() - due, code, photo))
        if connection.reusable and len(self._free) < MAX_CONNECTIONS:
            self._free.append(connection)
        else:
            connection.close()

    def _more(self) -> bool:
        return not self._plan.max_requests or self._next < self._plan.max_requests

    async def _connected(self) -> Connection:
        """Return a free connection, or a new one."""
        while self._free:
            if (connection := self._free.pop()).reusable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self._plan.host, self._plan.port)
        except OSError:
            await asyncio.sleep(0.01)  # no busy loop on refused connections
            return Connection()
        return connection

    async def _probe(self) -> None:
        request = f"GET {self._plan.probe} HTTP/1.1\r\nHost: {self._plan.host}\r\n\r\n".encode()
        connection = Connection()
        while True:
            if not connection.reusable:
                connection = await self._connected()
            began = time.perf_counter()
            if await connection.send(request) > LOST:
                self._outcome.probe_s.append(time.perf_counter() - began)
            await asyncio.sleep(PROBE_PAUSE_S)


def _request(plan: Plan, body: bytes) -> bytes:
    fields = {
        "Host": f"{plan.host}:{plan.port}",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
        **plan.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {plan.target} HTTP/1.1\r\n{head}\r\n".encode() + body


def _arrivals(plan: Plan) -> list[float]:
    """Return the times at which requests are sent, seconds from the start."""
    if not plan.poisson:
        return [index / plan.rate for index in range(int(plan.seconds * plan.rate))]
    source = random.Random(plan.seed)  # noqa: S311 - arrival times, not secrets
    times, now = [], source.expovariate(plan.rate)
    while now < plan.seconds:
        times.append(now)
        now += source.expovariate(plan.rate)
    return times


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return new_event_loop


def main() -> int:
    """Run the plan on stdin."""
    plan = Plan(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        outcome = runner.run(Generator(plan).run())
    json.dump(asdict(outcome), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
