"""Colour tables of the maps: 256 RGB values each, so that no plotting library is needed to serve.

They are the rows of `colormaps.png`, as in matplotlib, rounded to 8 bits; a test compares them.
Turbo: A. Mikhailov, Google, Apache-2.0. Viridis, inferno: N. Smith and S. van der Walt, CC0. Jet: the piecewise linear
table of old, for comparison with older papers.
"""

from pathlib import Path

import numpy as np
from PIL import Image

with Image.open(Path(__file__).with_name("colormaps.png")) as _tables:
    COLORMAPS = dict(zip(("turbo", "viridis", "inferno", "jet"), np.asarray(_tables), strict=True))
    """Name → RGB, uint8, (256, 3); read-only."""
