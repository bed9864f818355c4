"""The file of feedback: bounded, whole lines only, and never in the way of anything else."""

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

from service import feedback as module
from service.errors import FeedbackUnavailable, UnknownRequest
from service.feedback import MOST_WAITING, Answered, Feedback
from tests.service.tiny_model import LABELS, tiny_manifest

ANSWERED = Answered(LABELS[0], True, 0.41234, "tiny", "1", "ab", tiny_manifest())


def append(feedback: Feedback, label: str | None = LABELS[1], request_id: str = "a") -> None:
    """Append one line."""
    asyncio.run(feedback.append(request_id, 0, label, ANSWERED))


def test_a_line_holds_both_answers_and_no_photo(tmp_path: Path) -> None:
    """What the user said stands beside what was answered, and by which model."""
    path = tmp_path / "feedback.jsonl"
    append(Feedback(path, 4096), None)
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert {
        "request_id": "a", "image": 0, "label": None, "predicted": LABELS[0], "known": True, "novelty": 0.412,
        "model": "tiny", "version": "1", "sha256": "ab",
    } == found  # fmt: skip
    assert 0o600 == path.stat().st_mode & 0o777


def test_only_the_newest_answers_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded; an answer given again is the newest one."""
    monkeypatch.setattr(module, "REMEMBERED", 3)
    feedback = Feedback(tmp_path / "f", 4096)
    for request_id in ("a", "b", "c", "a", "d"):
        feedback.remember(request_id, 0, ANSWERED)
    assert [ANSWERED] * 3 == [feedback.answer(request_id, 0) for request_id in ("a", "c", "d")]
    for key in (("b", 0), ("a", 1)):
        with pytest.raises(UnknownRequest):
            feedback.answer(*key)


def test_a_full_file_takes_no_more(tmp_path: Path) -> None:
    """It stays below its bound and whole; moved away, a new one begins."""
    path = tmp_path / "f"
    feedback = Feedback(path, 1024)
    for _ in range(5):
        append(feedback)
    with pytest.raises(FeedbackUnavailable):
        append(feedback)
    assert 700 < path.stat().st_size <= 1024
    assert {LABELS[1]} == {json.loads(line)["label"] for line in path.read_text().splitlines()}
    path.rename(tmp_path / "old")
    append(feedback)
    assert 1 == len(path.read_text().splitlines())


def test_a_cut_line_spoils_no_other(tmp_path: Path) -> None:
    """What a crash or a full disk left is closed by the next line."""
    path = tmp_path / "f"
    path.write_text('{"request_id": "cut')
    append(Feedback(path, 4096))
    cut, whole, end = path.read_text().split("\n")
    assert ('{"request_id": "cut', LABELS[1], "") == (cut, json.loads(whole)["label"], end)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that it is not written down, the operator why."""
    feedback = Feedback(Path("/dev/full"), 4096)
    for _ in range(3):
        with pytest.raises(FeedbackUnavailable):
            append(feedback)
    assert ["feedback cannot be written: No space left on device"] == caplog.messages


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """A folder, a folder that is not there, a pipe that nobody reads."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none" / "f", tmp_path / "pipe"):
        with pytest.raises(OSError, match=str(path)):
            Feedback(path, 4096)


def test_a_disk_that_hangs_collects_no_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number waits for it, the others are refused at once; then all that waited is written."""
    path, opened = tmp_path / "f", threading.Event()
    feedback = Feedback(path, 1_000_000)
    write = Feedback._try

    def hang(self: Feedback, line: bytes) -> str:
        assert opened.wait(60)
        return write(self, line)

    monkeypatch.setattr(Feedback, "_try", hang)

    async def crowd() -> list[BaseException | None]:
        waiting = [asyncio.create_task(feedback.append(str(i), 0, None, ANSWERED)) for i in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(FeedbackUnavailable):
            await feedback.append("late", 0, None, ANSWERED)
        opened.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [None] * MOST_WAITING == asyncio.run(crowd())
    assert [str(i) for i in range(MOST_WAITING)] == [
        json.loads(one)["request_id"] for one in path.read_text().splitlines()
    ]
    append(feedback)
