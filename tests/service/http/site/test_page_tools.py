"""What a person does with answers on the page: look closely, compare, keep, remove; and the page for everybody."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import LABELS, marked_manifest, tiny_model

pytest.importorskip("websockets")
from tests.service.browser import CHROMIUM, Page, chromium, desk, opened
from tests.service.http.site.test_page import answered, middle, text

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
SPOT = (0.71875, 0.0625)
"""Where the photos are reddest, in shares of their sides."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a tab."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of two versions, the newer with marks and priors, that answers one request at a time."""
    folder = tmp_path_factory.mktemp("models")
    settings = tiny_settings(folder, max_requests=1)
    (folder / "tiny" / "2.onnx").write_bytes(tiny_model(marked_manifest()))
    rows = [f"{label},{share},1" for label, share in zip(LABELS, (0, 1, 1, 1), strict=True)]
    (folder / "tiny" / "priors.csv").write_text("\n".join(["label,May,June", *rows]) + "\n")
    with running(settings) as server:
        yield server


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return photos: a small one, the same large and lying on its side, one only the service reads, an empty file."""
    folder = tmp_path_factory.mktemp("photos")
    for name, scale in (("spotted", 1), ("large", 32)):
        pixels = np.full((80 * scale, 160 * scale, 3), (190, 0, 0), np.uint8)
        pixels[: 10 * scale, 110 * scale : 120 * scale] = 255, 0, 0
        image = Image.fromarray(pixels)
        exif = Image.Exif()
        if name == "large":
            image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(folder / f"{name}.jpg", quality=95, exif=exif)
    Image.new("RGB", (40, 60), (20, 20, 250)).save(folder / "blue.tif")
    Image.new("RGB", (40, 60), "white").save(folder / "white.png")
    (folder / "empty.jpg").write_bytes(b"")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def page(browser: Page, server: Running) -> Iterator[Page]:
    """Return the tab with the page freshly loaded, its events cleared, as on a desk."""
    yield opened(browser, server)
    desk(browser)


def contrasted(page: Page, photos: dict[str, Path], view: str) -> None:
    """Ask why the first class and not the second, and show a view of it."""
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    page.run(f"versus.value = {json.dumps(LABELS[1])}; document.getElementById('versus-form').requestSubmit()")
    page.until("!clear.hidden && busy.hidden")
    page.run(f"document.querySelector('input[value={view}]').click()")
    page.until("busy.hidden && layer.complete")


def point_at(page: Page, x: float, y: float) -> None:
    """Move the mouse to a place of the photo, in shares of its sides."""
    middle(page, "#photo")
    left, top, width, height = page.run(
        "(({x, y, width, height}) => [x, y, width, height])(photo.getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + x * width, y=top + y * height)


def test_the_page_has_no_barriers(page: Page, photos: dict[str, Path]) -> None:
    """By axe-core, on a desk and on a phone, light and dark, at first sight and with all that opens later."""
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None
    assert spec.origin is not None
    axe = Path(spec.origin).with_name("axe.min.js").read_text()
    violations = (
        "axe.run().then((found) => found.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"
    )
    page.run(f"{axe};0")
    assert [] == page.run(violations)
    contrasted(page, photos, "beside")
    page.until("!document.getElementById('second').hidden")
    page.choose_files("#files", [photos["empty"]])
    page.until("!problem.hidden")
    assert [] == page.run(violations)
    page.run("document.querySelectorAll('#strip button')[0].click(); curl.click(); versus.value = 'x'")
    page.run("document.getElementById('versus-form').requestSubmit()")
    page.until("!document.getElementById('versus-note').hidden && busy.hidden")
    for scheme in ("light", "dark"):
        page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        page.call("Emulation.setEmulatedMedia", features=features)
        assert [] == page.run(violations)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    small = page.run(
        "[...document.querySelectorAll('button, select, input, textarea, label.choose, .segments span, nav a')]"
        ".filter((one) => one.offsetParent && !one.matches('[type=file], [type=radio]'))"
        ".filter((one) => one.offsetWidth < 44 || one.offsetHeight < 44).map((one) => one.outerHTML)"
    )
    assert [] == small
    cut = (
        "[...document.querySelectorAll('body :not(input)')]"
        ".filter((one) => getComputedStyle(one).textOverflow === 'ellipsis').length"
    )
    assert 0 == page.run(cut)
    page.run(f"versus.value = {json.dumps('Chestnut sided Warbler')}")
    assert page.run("versus.scrollWidth <= versus.clientWidth")
    assert page.run("document.querySelector('label.camera').offsetHeight >= 44")
    assert "environment" == page.run("camera.getAttribute('capture')")


def test_zoom_and_pan_keep_photo_and_map_in_step(page: Page, photos: dict[str, Path]) -> None:
    """By button, wheel, drag and key, in both of two pictures; what lies on the photo stays on it."""
    contrasted(page, photos, "beside")
    page.until("!document.getElementById('second').hidden")
    boxes = (
        "['photo', 'layer', 'photo-beside', 'layer-beside'].map((id) => document.getElementById(id))"
        ".map((one) => [one.getBoundingClientRect(), one.closest('.pane').getBoundingClientRect()])"
        ".map(([one, pane]) => [one.x - pane.x, one.y - pane.y, one.width / pane.width])"
    )

    def in_step() -> tuple[float, float, float]:
        found = np.array(page.run(boxes))
        assert found == pytest.approx(np.tile(found[0], (4, 1)), abs=0.1)
        return tuple(found[0])

    assert (0, 0, 1) == pytest.approx(in_step())
    page.run("document.getElementById('zoom-in').click()")
    zoomed = in_step()
    assert 1.5 == pytest.approx(zoomed[2])
    badge = page.run(
        "(() => { const [one, box] = [places.children[0], photo].map((it) => it.getBoundingClientRect());"
        "return [(one.x + one.width / 2 - box.x) / box.width, (one.y + one.height / 2 - box.y) / box.height] })()"
    )
    assert SPOT == pytest.approx(badge, abs=0.01)
    x, y = middle(page, ".pane")
    for kind, by in (("mousePressed", 0), ("mouseMoved", 15), ("mouseReleased", 15)):
        page.call("Input.dispatchMouseEvent", type=kind, x=x + by, y=y, button="left", buttons=1, clickCount=1)
    assert zoomed[0] + 15 == pytest.approx(in_step()[0], abs=0.5)
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100, modifiers=2)
    page.until("Number(stage.style.getPropertyValue('--zoom')) > 2")
    in_step()
    page.run("stage.focus()")
    page.press("0", 48)
    assert (0, 0, 1) == pytest.approx(in_step())
    page.press("+", 187)
    assert 1.5 == pytest.approx(in_step()[2])


def test_value_under_the_pointer(page: Page, server: Running, photos: dict[str, Path]) -> None:
    """It is the map's own, by mouse; by key it is spoken too."""
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    with server.client() as client:
        parameters = {"values": True}
        answer = client.post(
            "/explain",
            params=parameters,
            content=photos["spotted"].read_bytes(),
            headers={"Accept": "application/json"},
        ).json()["gradcam"]
    row, column = 3, 2
    x, y = (40 + 80 * (column + 0.5) / 8) / 160, (row + 0.5) / 8  # the middle square of the photo is seen
    point_at(page, x, y)
    page.until("document.getElementById('value').textContent")
    shown = float(text(page, "value").removeprefix("Here: "))
    step = (answer["max"] - answer["min"]) / 254
    assert answer["values"][row][column] == pytest.approx(shown, abs=2 * step)
    point_at(page, 0.01, 0.5)
    page.until("document.getElementById('value').textContent.includes('beyond')")
    page.press("Tab", 9)
    page.run("stage.focus({focusVisible: true})")
    page.press("ArrowRight", 39)
    page.until(
        "live.textContent.startsWith('Here: ') && live.textContent === document.getElementById('value').textContent"
    )
    assert [] == page.complaints()


def test_a_contrast_in_two_colours(page: Page, photos: dict[str, Path]) -> None:
    """Orange for the one class, blue for the other, on one scale; the value says for which it is."""
    contrasted(page, photos, "both")
    page.until("layer.src && !scale.hidden && document.getElementById('ramp').dataset.map === 'both'")
    words = f"Orange: what speaks for {LABELS[0]} rather than {LABELS[1]}; blue: the reverse"
    assert words == text(page, "caption")
    point_at(page, *SPOT)
    page.until(f"document.getElementById('value').textContent.includes({json.dumps(f'for {LABELS[0]}')})")
    # What the two colours are of two maps of one row: for the one, for both alike, for the other, not looked at.
    colours = page.run("""(async () => {
      const drawn = (width, draw) => {
        const canvas = Object.assign(document.createElement('canvas'), { width, height: 1 });
        const context = canvas.getContext('2d');
        draw(context);
        return [canvas, context.getImageData(0, 0, width, 1).data];
      };
      const picture = async (src) => {
        const image = Object.assign(new Image(), { src });
        await image.decode();
        return image;
      };
      const table = await picture('page/colormaps.png');
      const [, viridis] = drawn(256, (context) => context.drawImage(table, 0, -1));
      const map = (columns) => ({ min: 0, max: 2, png: drawn(4, (context) => columns.forEach((column, at) => {
        if (column === null) return;
        context.fillStyle = `rgb(${viridis.slice(4 * column, 4 * column + 3).join()})`;
        context.fillRect(at, 0, 1, 1);
      }))[0].toDataURL() });
      const { inTwoColours } = await import('./page/values.js');
      const { png, most } = await inTwoColours(map([255, 0, 0, null]), map([0, 0, 255, null]), 'viridis');
      const both = await picture(png);
      return [most, ...drawn(4, (context) => context.drawImage(both, 0, 0))[1]];
    })()""")
    assert [2, *(255, 122, 0, 255), *(0, 0, 0, 0), *(0, 104, 255, 255), *(0, 0, 0, 0)] == colours
    assert [] == page.complaints()


def test_large_photos_are_shrunk_with_a_word(page: Page, photos: dict[str, Path]) -> None:
    """A photo lying on its side too: it is sent upright, and the places lie on what is shown."""
    page.choose_files("#files", [photos["large"]])
    answered(page)
    words = "Shrunk here from 5120 × 2560 to 2048 × 1024 pixels before it was sent; the maps lie on your whole photo."
    assert words == text(page, "photo-words")
    assert "2048 × 1024 pixels" in text(page, "facts")
    assert [5120, 2560] == page.run("[photo.naturalWidth, photo.naturalHeight]")
    place = page.run("[places.children[0].style.left, places.children[0].style.top].map(parseFloat)")
    assert [100 * share for share in SPOT] == pytest.approx(place, abs=7)
    assert [] == page.complaints()


def test_files_that_are_no_photos_in_plain_words_and_removal(page: Page, photos: dict[str, Path]) -> None:
    """An empty file and one that the browser cannot show say so; every photo can be removed, by key too."""
    page.choose_files("#files", [photos["empty"], photos["blue"], photos["spotted"]])
    words = ["The file is empty", "“empty.jpg” holds no bytes, so there is no photo in it."]
    assert words == [text(page, "problem-title"), text(page, "problem-detail")]
    page.until("[...document.querySelectorAll('#strip span')].every((one) => one.textContent !== '…')")
    page.run("document.getElementById('remove').click()")
    answered(page)
    assert [2, LABELS[2]] == page.run("[strip.children.length, document.getElementById('label').innerText]")
    assert "Your browser cannot show this file, so it is sent as it is." == text(page, "photo-words")
    page.run("strip.children[1].firstChild.focus()")
    page.press("Delete", 46)
    assert [True, LABELS[2]] == page.run("[strip.hidden, document.getElementById('label').innerText]")
    page.run("document.getElementById('remove').click()")
    assert [True, True, False, "files"] == page.run(
        "[result.hidden, tools.hidden, document.body.classList.contains('has-photos'), document.activeElement.id]"
    )


def test_a_busy_service_is_asked_again(page: Page, server: Running, photos: dict[str, Path]) -> None:
    """The page counts the seconds down in words, and then has the answer."""
    with server.connect() as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n")
        server.until(lambda: server.in_flight() == 1)
        page.choose_files("#files", [photos["spotted"]])
        page.until("!wait.hidden")
        assert text(page, "wait").startswith("The service is busy; trying again in ")
        assert page.run("live.textContent").startswith("The service is busy")
    answered(page)
    assert [True, LABELS[0]] == page.run("[wait.hidden, document.getElementById('label').innerText]")


def test_what_is_said_before(page: Page, photos: dict[str, Path]) -> None:
    """Classes that alone are possible, a prior, a version: the answer is of what was picked."""
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    assert "model tiny version 2 · layer pixels" in text(page, "facts")
    ask_among = "among.value = {}; document.getElementById('among-form').requestSubmit()"
    page.run(ask_among.format(json.dumps("Gren bird\n")))
    assert "No class is called “Gren bird”." == text(page, "among-note")
    page.run(ask_among.format(json.dumps(f"{LABELS[1].upper()}\n\n{LABELS[2]}")))
    page.until("document.querySelectorAll('#bars button').length === 2 && busy.hidden")
    page.run(ask_among.format("''"))
    page.until(f"document.querySelectorAll('#bars button').length === {len(LABELS)} && busy.hidden")
    page.run("prior.value = 'May'; prior.dispatchEvent(new Event('change'))")
    page.until("facts.textContent.includes('May') && busy.hidden")
    assert LABELS[0] != text(page, "label")
    version = json.dumps(json.dumps(["tiny", "1"]))
    pick = "document.getElementById('model-pick')"
    page.run(f"{pick}.value = JSON.stringify(JSON.parse({version})); {pick}.dispatchEvent(new Event('change'))")
    page.until("facts.textContent.includes('version 1') && busy.hidden")
    assert [True, "tiny version 1 · 4 classes"] == page.run(
        "[document.getElementById('marks-box').hidden, model.textContent]"
    )


def test_a_page_that_is_opened_while_models_load(page: Page, server: Running, photos: dict[str, Path]) -> None:
    """It asks again until there is one, and a photo waits for it.

    Only the order of events is made: the second answer is the server's.
    """
    script = """
      const real = window.fetch;
      let asked = 0;
      window.fetch = (path, ...rest) =>
        path === 'models' && !asked++ ? Promise.resolve(new Response('{"models": []}')) : real(path, ...rest);
    """
    added = page.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    try:
        page.open(f"{server.url}/")
        page.choose_files("#files", [photos["spotted"]])
        answered(page)
        assert page.run("[model.textContent, marks.children.length > 0]") == ["tiny version 2 · 4 classes", True]
    finally:
        page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_a_value_is_of_the_map_that_is_shown(page: Page, photos: dict[str, Path]) -> None:
    """After a finger has pointed, another view clears it."""
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    point_at(page, *SPOT)
    page.until("value.textContent.startsWith('Here: ')")
    page.run("document.querySelector('input[value=photo]').click()")
    page.until("!value.textContent")


def test_the_name_is_above_the_photo_on_a_phone(page: Page, photos: dict[str, Path]) -> None:
    """What it is stands before what shows it; what else can be asked, below."""
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    page.choose_files("#files", [photos["spotted"]])
    answered(page)
    tops = page.run(
        "['label', 'sure', 'stage', 'bars', 'target'].map((id) => "
        "document.getElementById(id).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)


def test_photos_of_one_individual(page: Page, photos: dict[str, Path]) -> None:
    """They get one answer together, in words, or are like none together; the empty file is not sent."""
    page.choose_files("#files", [photos["spotted"], photos["blue"], photos["empty"]])
    page.until("[...document.querySelectorAll('#strip span')].every((one) => one.textContent !== '…')")
    page.run("individual.click()")
    page.until("!together.hidden")
    assert text(page, "together").startswith("As one individual, 2 photos together: ")
    page.run("together.hidden = true; document.getElementById('remove').click()")
    page.until("document.querySelectorAll('#strip li').length === 2")
    page.choose_files("#files", [photos["white"]])
    answered(page)
    page.run("document.querySelector('#strip button').click()")
    page.run("document.getElementById('remove').click(); individual.click()")
    page.until("!together.hidden")
    nearest = "1 photos together: like none of the 4 classes; nearest: "
    assert nearest in text(page, "together")


def test_results_to_keep(page: Page, photos: dict[str, Path]) -> None:
    """A table that no table calculator runs, and JSON without pictures; a photo with a problem is in both."""
    answer: dict[str, Any] = {
        "predictions": [{"label": 'A "b", c', "index": 0, "probability": 0.5}],
        "width": 3, "height": 2, "model": {"name": "m", "version": "1"}, "gradcam": {"png": "data:", "max": 1},
    }  # fmt: skip
    shown = [
        {"file": {"name": "=1+1.jpg"}, "result": answer},
        {"file": {"name": "x.jpg"}, "problem": {"message": "No photo", "document": {"code": "empty_input"}}},
        {"file": {"name": "waiting.jpg"}},
    ]
    table, kept = page.run(
        f"import('./page/results.js').then(({{ csv, json }}) => [csv({json.dumps(shown)}), json({json.dumps(shown)})])"
    )
    assert [
        "filename,label,probability,known,novelty,set,marks,prior,width,height,model,version,problem",
        '\'=1+1.jpg,"A ""b"", c",0.5,,,,,,3,2,m,1,',
        "x.jpg,,,,,,,,,,,,No photo",
        "",
    ] == table.split("\r\n")
    expected = [answer | {"gradcam": {"max": 1}}, {"filename": "x.jpg", "code": "empty_input"}]
    assert {"results": expected} == json.loads(kept)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_command_gets_the_same_answer(page: Page, photos: dict[str, Path], tmp_path: Path) -> None:
    """Run in a shell as it was shown, for a file whose name is hostile."""
    photo = tmp_path / "it's $(touch hit) `touch hit`;.jpg"
    photo.write_bytes(photos["spotted"].read_bytes())
    page.choose_files("#files", [photo])
    answered(page)
    page.run("curl.click()")
    page.until("document.getElementById('command').value")
    command = page.run("document.getElementById('command').value")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert LABELS[0] == json.loads(done.stdout)["target"]["label"]
    assert [photo] == list(tmp_path.iterdir())


def test_no_probability_is_rounded_away(page: Page) -> None:
    """None is shown as zero or as certain that is not."""
    shares = [0, 0.0004, 0.001, 0.0996, 0.5, 0.9949, 0.9999, 1]
    said = page.run(f"import('./page/numbers.js').then(({{ percent }}) => {json.dumps(shares)}.map(percent))")
    expected = ["under 0.1%", "under 0.1%", "0.1%", "10%", "50%", "99.5%", "over 99.9%", "over 99.9%"]
    assert expected == said
    marks = page.run("import('./page/numbers.js').then(({ wholePercent: it }) => [0, .003, .5, .997, 1].map(it))")
    assert ["0%", "under 1%", "50%", "over 99%", "100%"] == marks
