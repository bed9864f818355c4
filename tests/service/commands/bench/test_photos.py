"""Photos of a size, synthetic or scaled."""

from pathlib import Path

from model.photo.decode import decode_image
from service.commands.bench.photos import find_photos, photos_of_size, synthetic_photo
from tests.service.conftest import encoded


def test_photos(tmp_path: Path) -> None:
    """Synthetic and scaled photos have the requested size, and are the same every time."""
    assert synthetic_photo(64, 48, seed=3) == synthetic_photo(64, 48, seed=3)
    path = tmp_path / "wide.png"
    path.write_bytes(encoded("green", (300, 100)))
    for data in (synthetic_photo(64, 48), *photos_of_size([path], (64, 48))):
        decoded = decode_image(data)
        assert (64, 48, "JPEG") == (decoded.width, decoded.height, decoded.format)
    assert [path] == find_photos([tmp_path], 3)
