"""The plates: four birds drawn as in a field guide, each also with one field mark repainted.

Two pairs of look-alikes. The source of a plate is its SVG; the class `repainted` on its root repaints the mark.
`benchmarks/render_plates.py` makes the PNGs.
"""

from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Plate:
    """A drawn bird.

    Attributes:
        name: of its files, without an ending.
        label: of its class in the bundled model.
        rival: label of its look-alike among the plates.
        mark: the field mark that is repainted, in words.
        paint: the colour that replaces it.
    """

    name: str
    label: str
    rival: str
    mark: str
    paint: str

    def picture(self, *, repainted: bool = False) -> bytes:
        """Return the plate as a PNG."""
        return (_HERE / f"{self.name}{'-repainted' if repainted else ''}.png").read_bytes()


PLATES = (
    Plate("red-winged-blackbird", "Red winged Blackbird", "Yellow headed Blackbird", "red shoulder", "black"),
    Plate("yellow-headed-blackbird", "Yellow headed Blackbird", "Red winged Blackbird", "yellow head", "black"),
    Plate("cardinal", "Cardinal", "Vermilion Flycatcher", "red crest", "brown"),
    Plate("vermilion-flycatcher", "Vermilion Flycatcher", "Cardinal", "red crown", "brown"),
)
