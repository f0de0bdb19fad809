"""Photos of three places with EXIF data, in a folder."""

from datetime import datetime

import pytest
from exif import jpeg_taken
from utm import to_latlon

from mixvpr_jax.exif import Taken


def at(east, north, zone=(32, "U"), heading=None, time=None):
    latitude, longitude = to_latlon(east, north, *zone, strict=False)
    return Taken((float(latitude), float(longitude)), heading, time)


@pytest.fixture
def streets(tmp_path):
    """Three places 100 m apart, four photos each, with EXIF; and two photos without a position."""
    folder = tmp_path / "My streets"
    folder.mkdir()
    for place in range(3):
        for view in range(4):
            taken = at(500005.0 + 100 * place, 5000005.0 + view)
            time = datetime(2025, 1 + place, 1 + view)
            content = jpeg_taken(taken.position, (355 + 3 * view) % 360, time, 60 * place + view)
            (folder / f"p{place}v{view}.jpg").write_bytes(content)
    for name in ("x.jpg", "y.jpg"):
        (folder / name).write_bytes(jpeg_taken())
    return folder
