"""Render the drawn plates, SVG → PNG, each as it is and with its mark repainted; needs Chromium and Pillow.

    python benchmarks/render_plates.py && pytest tests/service/samples

Each PNG records the SHA-256 of its SVG, so that a test notices a drawing that was changed and not rendered.
"""

import hashlib
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

FOLDER = Path(__file__).parents[1] / "service" / "samples"
SIDE = 368
"""Of the PNGs, pixels: below 60 KB each, and more than the bundled model reads."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def render(svg: str, side: int) -> Image.Image:
    """Return an SVG as Chromium draws it, scaled to a square."""
    assert CHROMIUM is not None, "no Chromium here"
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "plate.svg"), Path(folder, "plate.png")
        page.write_text(svg)
        size = ("--window-size=480,480", "--force-device-scale-factor=1")
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        )
        subprocess.run(
            [CHROMIUM, *flags, *size, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True
        )
        return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def main() -> None:
    """Render all plates."""
    for source in sorted(FOLDER.glob("*.svg")):
        svg = source.read_text()
        info = PngInfo()
        info.add_text("svg-sha256", hashlib.sha256(source.read_bytes()).hexdigest())
        for ending, text in (("", svg), ("-repainted", svg.replace("<svg ", '<svg class="repainted" ', 1))):
            # 256 colours without dithering: a third of the bytes, and the same classes.
            picture = render(text, SIDE).quantize(256, kmeans=8, dither=Image.Dither.NONE)
            out = source.with_name(f"{source.stem}{ending}.png")
            picture.save(out, optimize=True, pnginfo=info)
            print(f"{out.name}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
