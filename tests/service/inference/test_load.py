"""The pace at which requests are answered, by a clock that the test sets."""

import pytest

from service.inference.load import LoadTracker


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock that the pace is measured by."""
    return Clock()


def serve_requests(load: LoadTracker, clock: Clock, *, at_once: int, rounds: int, seconds: float) -> None:
    """Work on `at_once` requests for some seconds, `rounds` times."""
    for _ in range(rounds):
        for _ in range(at_once):
            load.begin_work()
        clock.now += seconds
        for _ in range(at_once):
            load.end_work(answered=True)


@pytest.mark.parametrize("at_once", [1, 2])
def test_pace_is_that_of_full_load(clock: Clock, at_once: int) -> None:
    """Two cores with 10 ms of work a request take 5 ms each, whether one of them is busy or both."""
    load = LoadTracker(parallel=2, clock=clock)
    serve_requests(load, clock, at_once=at_once, rounds=10, seconds=0.010)
    assert pytest.approx(0.005) == load.request_s


def test_pace_ignores_idle_time_and_failures(clock: Clock) -> None:
    """Neither pauses nor refused images make the service look slower or faster than it is."""
    load = LoadTracker(parallel=1, clock=clock)
    serve_requests(load, clock, at_once=1, rounds=5, seconds=0.020)
    clock.now += 60
    load.begin_work()
    load.end_work(answered=False)
    assert pytest.approx(0.020) == load.request_s


def test_pace_follows_a_change(clock: Clock) -> None:
    """After some hundred requests the old pace is forgotten."""
    load = LoadTracker(parallel=1, clock=clock)
    serve_requests(load, clock, at_once=1, rounds=100, seconds=0.010)
    serve_requests(load, clock, at_once=1, rounds=400, seconds=0.030)
    assert pytest.approx(0.030, rel=0.02) == load.request_s


def test_expected_time_grows_with_the_requests_in_flight(clock: Clock) -> None:
    """A new request waits for all requests in flight and for its own work."""
    load = LoadTracker(parallel=2, clock=clock)
    serve_requests(load, clock, at_once=2, rounds=10, seconds=0.010)
    assert pytest.approx(0.010) == load.expected_s()
    load.requests = 100
    assert pytest.approx(0.510) == load.expected_s()
