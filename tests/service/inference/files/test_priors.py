"""The table of priors beside a model: what is read, what is refused, and when it replaces the one in use."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.inference.files.priors import FILE, MAX_BYTES, MAX_PRIORS, PriorsFile, PriorsRejected, read_priors
from tests.service.inference.test_models import BROKEN, names, other_model, put, started_runtime
from tests.service.tiny_model import LABELS, tiny_model

TABLE = "class,May,Ohio\nRed bird,1,0\nGreen bird,2,1e300\nBlue bird,3,1e300\nGrey bird,4,0.0\n"


def table(**changes: str) -> bytes:
    """Return the table with rows replaced: `Red="Red bird,,1"`; an empty one leaves the row out."""
    rows = TABLE.splitlines()
    for start, row in changes.items():
        rows = [row if one.startswith(start) else one for one in rows]
    return "\n".join(filter(None, rows)).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\r\n,,\r\n",  # as Excel writes it
        lambda text: "\n".join([text.splitlines()[0], *reversed(text.splitlines()[1:])]),
        lambda text: text.replace("Red bird", '"Red bird "').replace("May", " May "),
    ],
)
def test_a_table_in_the_order_of_the_classes(change: Callable[[str], str]) -> None:
    """Numbers are shares on any scale, rows may stand in any order."""
    priors = read_priors(change(TABLE).encode(), LABELS)
    assert ["May", "Ohio"] == list(priors)
    np.testing.assert_allclose(priors["May"], [0.1, 0.2, 0.3, 0.4], rtol=1e-15)
    np.testing.assert_array_equal(priors["Ohio"], [0, 0.5, 0.5, 0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"^priors\.csv: it is empty$"),
        (b"\n \n", r"^priors\.csv: it is empty$"),
        (b"x" * 9, r"row 1: it names 0 priors"),
        (TABLE.replace(",", ";").encode(), r"row 1: it names 0 priors"),
        (("class" + ",p" * (MAX_PRIORS + 1)).encode(), rf"row 1: it names {MAX_PRIORS + 1} priors"),
        (TABLE.encode("utf-16"), r"row 1: it is not UTF-8"),
        (table(Blue="Blue bird,3,1").replace(b"Blue", b"Bl\xfce"), r"row 4: it is not UTF-8"),
        (b'class,May\n"Red bird,1\n', r"it is not CSV: unexpected end of data"),
        (table(Green="Green bird,2"), r"row 3: it has 2 cells, the first row 3"),
        (table(Green="Green bird,2,,"), r"row 3: it has 4 cells"),
        (table(**{"class": "class,May,May"}), r"row 1: the prior 'May' is there twice"),
        (table(**{"class": "class,May, "}), r"row 1: the name in column 3 is empty"),
        (table(**{"class": "class,May,a\x1bb"}), r"row 1: the name in column 3 holds the control character U\+001B"),
        (table(**{"class": "class,May," + "m" * 65}), r"row 1: the name in column 3 is longer than 64 characters"),
        (table(Red=""), r"^priors\.csv: no row for 1 of 4 classes: 'Red bird'$"),
        (b"class,May\n", r"no row for 4 of 4 classes: 'Red bird', 'Green bird', 'Blue bird', …$"),
        (table(Red="Rad bird,1,1"), r"row 2: the model has no class 'Rad bird'; similar: 'Red bird'"),
        (table(Red="\x1b[2J,1,1"), r"row 2: the model has no class '\\x1b\[2J'$"),
        (table(Red="Grey bird,1,1"), r"row 5: the class 'Grey bird' stands in row 2 already"),
        (table(Red="Red bird,,1"), r"row 2: the cell is empty, under 'May'"),
        (table(Red="Red bird,1,often"), r"row 2: 'often' is not a number, under 'Ohio'"),
        (table(Red="Red bird,-1,1"), r"row 2: '-1' is not a number from 0, under 'May'"),
        (table(Red="Red bird,nan,1"), r"row 2: 'nan' is not a number from 0"),
        (table(Red="Red bird,1e999,1"), r"row 2: '1e999' is not a number from 0"),
        (table(Grey="Grey bird,0,0"), r"row 5: all its numbers are 0, so that no prior allows the class"),
        (table(Green="Green bird,2,0", Blue="Blue bird,3,0"), r"row 1: the prior 'Ohio' is 0 for every class"),
    ],
)
def test_a_table_that_is_refused(data: bytes, message: str) -> None:
    """The reason names the file and the row, and shows no control characters."""
    with pytest.raises(PriorsRejected, match=message) as caught:
        read_priors(data, LABELS)
    assert str(caught.value).isprintable()


@pytest.mark.anyio
async def test_tables_follow_their_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each model has its own; a bad one changes nothing and is said once, one that is gone stays until a reload."""
    for key in ("tiny/1", "other/1"):
        put(tmp_path, key, tiny_model())
    path = tmp_path / "tiny" / FILE
    path.write_bytes(table())
    async with started_runtime(tmp_path) as runtime:
        registry = runtime.models
        await registry.wait_ready()
        assert [["May", "Ohio"], []] == [list(registry.get(name).priors) for name in ("tiny", "other")]
        path.write_bytes(table(Red="Red bird,9,-9"))
        with caplog.at_level(logging.ERROR):
            reports = [await registry._check(trust=True), await registry._check(trust=True)]
        reason = "priors.csv, row 2: '-9' is not a number from 0, under 'Ohio'"
        assert [f"the priors of model tiny/1 are refused, those in use stay: {reason}"] == caplog.messages
        assert [[{"model": "tiny/1", "reason": reason}], []] == [report.failed for report in reports]
        assert 1 == runtime.metrics.registry.get_sample_value("fieldmark_model_reloads_total", {"outcome": "failed"})
        put(tmp_path, "tiny/2", other_model())  # the refused table does not take the priors from a new version
        assert ["tiny/2"] == (await registry._check(trust=True)).loaded
        assert ["May", "Ohio"] == list(registry.get("tiny").priors)

        path.write_bytes(table().replace(b"Ohio", b"June"))
        report = await registry.reload()
        assert (["tiny/1", "tiny/2"], ["other/1"]) == (sorted(report["loaded"]), report["unchanged"])
        assert ["May", "June"] == list(registry.get("tiny", 1).priors)
        path.unlink()
        assert [] == (await registry._check(trust=True)).loaded
        assert ["May", "June"] == list(registry.get("tiny").priors)
        assert ["tiny/1", "tiny/2"] == sorted((await registry.reload())["loaded"])
        assert {} == registry.get("tiny").priors
        assert [] == (await registry.reload())["loaded"]
        path.write_bytes(b"x" * (MAX_BYTES + 1))
        assert {f"{FILE}: it is larger than {MAX_BYTES} bytes"} == {
            failed["reason"] for failed in (await registry.reload())["failed"]
        }
        assert ["other/1", "tiny/2", "tiny/1"] == names(registry)


def test_a_table_is_read_once_it_is_complete(tmp_path: Path) -> None:
    """When it has stayed the same from one look to the next; then not again, a bad one neither unless asked to."""
    model, file = tmp_path / "1.onnx", PriorsFile()

    def reread(*, again: bool = False) -> list[str] | None:
        found = file.reread(model, LABELS, poll_s=3600, trust=False, again=again)
        return None if found is None else list(found)

    assert None is reread()
    (tmp_path / FILE).write_bytes(table())
    assert [None, ["May", "Ohio"], None] == [reread(), reread(), reread(again=True)]
    (tmp_path / FILE).write_bytes(b"half a fi")
    assert None is reread()
    for again in (False, True):
        with pytest.raises(PriorsRejected):
            reread(again=again)
        assert None is reread()
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert None is reread()
    with pytest.raises(PriorsRejected, match="it cannot be read: Is a directory"):
        reread()
    assert None is reread()


@pytest.mark.anyio
async def test_a_file_alone_has_its_table_beside_it(tmp_path: Path) -> None:
    """A bad model file does not take its table along."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    (tmp_path / FILE).write_bytes(table())
    async with started_runtime(path) as runtime:
        await runtime.models.wait_ready()
        path.write_bytes(BROKEN)
        (tmp_path / FILE).write_bytes(table().replace(b"Ohio", b"June"))
        report = await runtime.models.reload()
        assert (["tiny/1"], ["/1"]) == (report["loaded"], [failed["model"] for failed in report["failed"]])
        assert ["May", "June"] == list(runtime.models.get().priors)
