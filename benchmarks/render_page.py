"""Make the still of the page at the README's top: a drawn plate, its field marks, and its contrast in two colours.

    python -m benchmarks.render_page

Needs Chromium, and the `dev` extra for the driver that the page's tests use. It is of the bundled model: make it anew
with another one.
"""

import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from service.samples.plates import PLATES
from service.settings import Settings
from tests.service.browser import chromium
from tests.service.running import running

STILL = Path(__file__).parents[1] / ".github" / "page.webp"
"""Outside the packages, so that neither the page nor a wheel carries it."""
WIDTH, HEIGHT = 1120, 760
"""Of the still, pixels."""


def main() -> None:
    """Open the page, ask why the first plate's bird is not its look-alike, and keep what is seen."""
    with running(Settings(device="cpu")) as server, chromium(Path(tempfile.mkdtemp())) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=800, deviceScaleFactor=1, mobile=False)
        page.open(f"{server.url}/")
        page.until("document.querySelectorAll('#plates button').length")
        page.run("document.querySelector('#plates button').click()")
        page.until("document.querySelectorAll('#bars button').length && busy.hidden")
        page.run(f"versus.value = {PLATES[0].rival!r}; document.getElementById('versus-form').requestSubmit()")
        page.until("!clear.hidden && busy.hidden")
        page.run("document.querySelector('input[value=both]').click()")
        page.until("document.getElementById('ramp').dataset.map === 'both' && busy.hidden && layer.complete")
        top = page.run("result.getBoundingClientRect().y + scrollY - 12")
        clip = {"x": 0, "y": top, "width": WIDTH, "height": HEIGHT, "scale": 1}
        png = page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(STILL, quality=82, method=6)
    print(f"{STILL.name}: {STILL.stat().st_size} bytes")


if __name__ == "__main__":
    main()
