"""TIFF files of every layout, made by hand: what is read is right, the rest is one line."""

import struct

import numpy as np
import pytest

from mixvpr_jax import InputError
from mixvpr_jax.preprocess import decode_image

COLOURS = np.random.default_rng(3).integers(0, 256, (21, 37, 3)).astype(np.uint8)
GREY, ALPHA = COLOURS[..., :1], np.full((21, 37, 1), 255, np.uint8)


def tiff(values, *, planar=1, tile=None, tags=(), order="<", bits=8):
    """A file of values [h, w, c] in strips of 8 rows, or in tiles, and its other tags.

    uint8 are scaled to all bits.
    """
    height, width, channels = values.shape
    scale = 257 if bits == 16 and values.dtype == np.uint8 else 1
    deep = (values.astype(int) * scale).astype(f"{order}u{bits // 8}")
    rows, columns = (tile, tile) if tile else (8, width)
    pieces = []
    for plane in np.split(deep, channels, axis=2) if planar == 2 else [deep]:
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                piece = plane[y : y + rows, x : x + columns]
                if tile:
                    missing = [(0, tile - piece.shape[0]), (0, tile - piece.shape[1]), (0, 0)]
                    piece = np.pad(piece, missing)
                pieces.append(piece.tobytes())
    ends = 8 + np.cumsum([len(piece) for piece in pieces])
    sizes = [len(piece) for piece in pieces]
    offsets = [int(end) - size for end, size in zip(ends, sizes, strict=True)]
    where = {324: offsets, 325: sizes, 322: [tile], 323: [tile]}
    stored = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 277: [channels]}
    stored |= {262: [2 if channels > 2 else 1], 284: [planar]}
    stored |= where if tile else {273: offsets, 279: sizes, 278: [rows]}
    stored |= dict(tags)
    entries, behind, at = b"", b"", int(ends[-1])
    for tag, numbers in sorted(stored.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, behind = struct.pack(f"{order}I", at + len(behind)), behind + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", at + len(behind))
    body = struct.pack(f"{order}H", len(stored)) + entries + bytes(4)
    return head + b"".join(pieces) + behind + body


def read(content):
    return np.asarray(decode_image(content, "a.tif"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, 16, 48])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_every_layout(order, tile, planar, bits, alpha):
    """tifffile writes [3, h, w] in planes, by default without compression."""
    values = np.concatenate([COLOURS, ALPHA], axis=2) if alpha else COLOURS
    options = {"planar": planar, "tile": tile, "order": order, "bits": bits}
    content = tiff(values, tags={338: [2]} if alpha else {}, **options)
    assert np.array_equal(read(content), COLOURS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("alpha", [[], [2], [0]])
@pytest.mark.parametrize("bits", [8, 14])
def test_colours_of_fewer_bits_in_16_are_refused(order, tile, planar, alpha, bits):
    values = np.concatenate([COLOURS, ALPHA], axis=2) if alpha else COLOURS
    tags, deep = {338: alpha} if alpha else {}, values.astype(int) << bits - 8
    content = tiff(deep, planar=planar, tile=tile, tags=tags, order=order, bits=16)
    with pytest.raises(InputError, match=r"a\.tif: .* found 16-bit colours below a quarter"):
        read(content)


def test_ink_of_16_bits():
    """Black ink alone leaves the other colours 0."""
    ink = np.concatenate([np.zeros_like(COLOURS), GREY], axis=2)
    assert np.array_equal(read(tiff(ink, tags={262: [5]}, bits=16))[..., :1], 255 - GREY)


@pytest.mark.parametrize(
    ("order", "bits", "white"),
    [("<", 8, 0), (">", 8, 0), ("<", 16, 0), ("<", 8, 1), (">", 8, 1), ("<", 16, 1), (">", 16, 1)],
)  # not big-endian 16 bits where white is 0, which Pillow does not know
@pytest.mark.parametrize("tile", [None, 16])
def test_grey_of_every_layout(order, tile, bits, white):
    values = GREY if white else 255 - GREY
    content = tiff(values, tile=tile, order=order, bits=bits, tags={262: [white]})
    assert np.array_equal(read(content), np.repeat(GREY, 3, axis=2))


@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("kind", [1, 2])
def test_grey_and_alpha_in_planes_are_refused(tile, kind):
    values = np.concatenate([GREY, ALPHA], axis=2)
    assert np.array_equal(read(tiff(values, tags={338: [kind]}))[..., :1], GREY)
    content = tiff(values, planar=2, tile=tile, tags={338: [kind]})
    with pytest.raises(InputError, match="expected grey beside its alpha, found separate planes"):
        read(content)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_fourth_sample_of_no_name_is_no_alpha(bits):
    values = np.concatenate([COLOURS, GREY // 2], axis=2)
    assert np.array_equal(read(tiff(values, bits=bits)), COLOURS)
    assert (read(tiff(values, bits=bits, tags={338: [2]})) > COLOURS).mean() > 0.9


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize(("bands", "tags"), [(3, {262: [1], 338: [0, 0]}), (4, {})])
def test_bands_of_no_name_in_planes_are_refused(bits, tile, bands, tags):
    """As GDAL writes several of 16 bits (grey, interleaved by band), and a fourth beside RGB."""
    values = np.concatenate([COLOURS, GREY // 2], axis=2)[..., :bands]
    content = tiff(values, planar=2, tile=tile, bits=bits, tags=tags)
    with pytest.raises(InputError, match=rf"a\.tif: expected grey or RGB, found {bands} bands in"):
        read(content)


@pytest.mark.parametrize("kind", [1, 5])
def test_a_raw_photo_is_not_its_thumbnail(kind):
    """DNG and NEF are TIFF files, whose first directory is a reduced image."""
    line = "a.tif: expected a photo, found a raw one whose thumbnail alone can be read; convert it"
    with pytest.raises(InputError, match=line):
        read(tiff(COLOURS, tags={254: [kind]}))
    for whole in ([0], [2]):  # a page
        assert np.array_equal(read(tiff(COLOURS, tags={254: whole})), COLOURS)


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_a_palette_of_8_or_16_bits(factor):
    table = np.random.default_rng(4).integers(0, 256, (256, 3))
    numbers = (table.T.ravel() * factor).tolist()
    content = tiff(GREY, tags={262: [3], 320: numbers})
    assert np.array_equal(read(content), table[GREY[..., 0]])
    with_alpha = tiff(
        np.concatenate([GREY, ALPHA], axis=2), tags={262: [3], 320: numbers, 338: [2]}
    )
    assert np.array_equal(read(with_alpha), table[GREY[..., 0]])


BAYER, JPEG_2000 = {262: [32803]}, {259: [34712]}
TAGS_OF_OTHER_KINDS = [BAYER, JPEG_2000, {258: [32] * 3}, {339: [3] * 3}, {258: [10] * 3}]


@pytest.mark.parametrize("tags", TAGS_OF_OTHER_KINDS)
def test_kinds_that_cannot_be_read_are_told(tags):
    content = tiff(COLOURS, tags=tags)
    line = (
        "a.tif: expected 8 or 16 bits .*, in a usual compression, found a TIFF of a kind that can"
    )
    with pytest.raises(InputError, match=line):
        read(content)
    with pytest.raises(InputError, match=r"^a.tif: expected (an image \(BMP|a whole image)"):
        read(content[:400])  # its directory is at the end
