"""Where and when photos were taken, by their EXIF data."""

import struct
from datetime import datetime

import numpy as np
import pytest
from exif import (
    BROKEN_SEGMENTS,
    CARRIERS,
    ODD,
    carrying,
    encoded,
    gps_block,
    gps_of,
    jpeg_taken,
    photo,
    with_segment,
)
from PIL import ExifTags

from mixvpr_jax import exif
from mixvpr_jax.exif import Taken, read_exif


def test_exif(tmp_path):
    path, time = tmp_path / "a.jpg", datetime(2026, 2, 3, 4, 5, 6)
    for position in ((48.137154, 11.576124), (-33.856784, -151.215297), (0.0, 1e-4)):
        path.write_bytes(jpeg_taken(position, 123.4, time))
        taken = read_exif(path)
        assert np.allclose(taken.position, position, rtol=0, atol=1e-8)
        assert taken.heading == pytest.approx(123.4) and taken.time == time
    path.write_bytes(jpeg_taken((0.0, 0.0)))
    assert read_exif(path) == Taken(), "no satellites yet"
    path.write_bytes(jpeg_taken((91.0, 0.0), heading=400))
    assert read_exif(path) == Taken()
    for broken in (b"", b"\xff\xd8\xff", jpeg_taken((1.0, 1.0))[:60]):
        path.write_bytes(broken)
        assert read_exif(path) == Taken()
    # Three doubles, whose sum overflows.
    huge = struct.pack("<3d", 1.79e308, 1.79e308, 1)
    path.write_bytes(gps_of((1, 2, 2, b"N"), (2, 12, 3, huge), (3, 2, 2, b"E"), (4, 12, 3, huge)))
    assert read_exif(path) == Taken()


def degrees_of(latitude, side, longitude, other, *, kind=2):
    """A photo whose degrees are signed rationals, beside these sides as text, or bytes (7)."""
    entries = []
    for tag, name, parts in ((1, side, latitude), (3, other, longitude)):
        rationals = b"".join(struct.pack("<2i", part, 1) for part in parts)
        entries += [(tag, kind, len(name), name), (tag + 1, 10, 3, rationals)]
    return gps_of(*entries)


@pytest.mark.parametrize(
    ("latitude", "longitude", "position"),
    [
        ((33.5,), (151.25,), (33.5, 151.25)),
        ((33, 30.5), (151, 15.0), (33 + 30.5 / 60, 151.25)),
        ((33.5,), (151, 15, 0), (33.5, 151.25)),
        ((33, 30, 0, 0), (151, 15, 0), None),
    ],
)
def test_degrees_in_fewer_numbers(latitude, longitude, position, tmp_path):
    entries = []
    for tag, side, numbers in ((1, b"N", latitude), (3, b"E", longitude)):
        doubles = struct.pack(f"<{len(numbers)}d", *numbers)
        entries += [(tag, 2, 1, side), (tag + 1, 12, len(numbers), doubles)]
    (tmp_path / "a.jpg").write_bytes(gps_of(*entries))
    assert read_exif(tmp_path / "a.jpg").position == position


@pytest.mark.parametrize(
    ("taken", "position"),
    [
        (((33, 30, 0), b"South\0", (151, 0, 0), b"East\0"), (-33.5, 151.0)),
        (((33, 30, 0), b"n\0", (151, 0, 0), b"w\0"), (33.5, -151.0)),
        (((-33, 30, 0), b"S\0", (151, 0, 0), b"E\0"), (-33.5, 151.0)),
        (((-33, -30, 0), b"S\0", (-151, 0, 0), b"W\0"), (-33.5, -151.0)),
        (((33, 30, 0), b"E\0", (151, 0, 0), b"N\0"), None),
        (((33, 30, 0), b"\0\0", (151, 0, 0), b"E\0"), None),
    ],
)
@pytest.mark.parametrize("kind", [2, 7])
def test_sides_of_degrees(taken, position, kind, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(degrees_of(*taken, kind=kind))
    assert read_exif(path) == Taken(position)


NORTH, EAST = 48.5, 11.25
PLACE = (
    (1, 2, 2, b"N"),
    (2, 5, 3, struct.pack("<6I", 48, 1, 30, 1, 0, 1)),
    (3, 2, 2, b"E"),
    (4, 5, 3, struct.pack("<6I", 11, 1, 15, 1, 0, 1)),
)
FAR = struct.pack("<I", 2**31)


def position_in(content, path):
    path.write_bytes(content)
    return read_exif(path).position


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_format_tells_where(carrier, tmp_path):
    content = carrying(carrier, photo(), gps_block(*PLACE))
    assert position_in(content, tmp_path / "a") == (NORTH, EAST)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_tells_where(big, tmp_path):
    tags = {ExifTags.IFD.GPSInfo: {1: "N", 2: (48, 30, 0), 3: "E", 4: (11, 15, 0)}}
    content = encoded(photo(), "TIFF", tiffinfo=tags, big_tiff=big)
    assert position_in(content, tmp_path / "a") == (NORTH, EAST)


@pytest.mark.parametrize("name", [name for name in ODD if ODD[name][0] != ExifTags.IFD.GPSInfo])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_odd_tag_costs_no_position(carrier, name, tmp_path):
    content = carrying(carrier, photo(), gps_block(*PLACE, others=[ODD[name]]))
    assert position_in(content, tmp_path / "a") == (NORTH, EAST)


@pytest.mark.parametrize(
    "entry",
    [
        (29, 2, 2**31, b"2026"),  # a date without end
        (7, 5, 3, FAR),
        (17, 5, 1, struct.pack("<2I", 0, 0)),
        (17, 2, 4, b"abc\0"),
        (27, 99, 8, bytes(8)),
        (5, 10, 0, b""),
    ],
)
def test_an_odd_tag_beside_it_costs_no_position(entry, tmp_path):
    assert position_in(gps_of(*PLACE, entry), tmp_path / "a") == (NORTH, EAST)


@pytest.mark.parametrize(("marker", "content"), BROKEN_SEGMENTS)
def test_broken_segments_cost_no_position(marker, content, tmp_path):
    for jpeg in (gps_of(*PLACE), jpeg_taken((NORTH, EAST))):
        found = position_in(with_segment(jpeg, marker, content), tmp_path / "a")
        assert found == pytest.approx((NORTH, EAST))


def test_pixels_do_not_matter(tmp_path):
    jpeg = gps_of(*PLACE)
    assert position_in(jpeg[: jpeg.index(b"\xff\xda")], tmp_path / "a") == (NORTH, EAST)


@pytest.mark.parametrize("segments", [15, 16, 17, 40])
def test_a_large_preview_costs_no_position(segments, tmp_path):
    jpeg = gps_of(*PLACE)
    for _ in range(segments):
        jpeg = with_segment(jpeg, 0xFFE2, bytes(65533))
    assert position_in(jpeg, tmp_path / "a") == (NORTH, EAST)


def test_a_photo_without_exif_is_not_read_to_its_end(tmp_path, monkeypatch):
    path, read, sizes = tmp_path / "a.jpg", exif.parts, []
    path.write_bytes(encoded(photo(), "JPEG") + bytes(10**6))
    monkeypatch.setattr(exif, "HEAD_BYTES", 10**5)
    monkeypatch.setattr(exif, "parts", lambda data: sizes.append(len(data)) or read(data))
    assert read_exif(path) == Taken()
    assert sizes == [10**5]


@pytest.mark.parametrize("pointer", [0, 4, 2**31, 2**32 - 1])
def test_pointers_to_no_directory(pointer, tmp_path):
    block = gps_block(*PLACE).replace(struct.pack("<HHII", 0x8825, 4, 1, 26), b"%b")
    block = block.replace(b"%b", struct.pack("<HHII", 0x8825, 4, 1, pointer))
    assert position_in(carrying("PNG", photo(), block), tmp_path / "a") is None
