"""What modes, depths and transparency of a photo become: 8 bits of red, green and blue."""

import io
import struct
import zlib

import numpy as np
import pytest
from exif import encoded, with_chunk
from PIL import Image

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import decode_image, load_image, to_rgb


def test_grey_is_repeated(photo):
    grey = photo.convert("L")
    rgb = np.asarray(to_rgb(grey))
    assert np.array_equal(rgb, np.stack([np.asarray(grey)] * 3, -1))
    assert np.array_equal(np.asarray(to_rgb(np.asarray(grey))), rgb)


def test_black_and_white_is_black_and_white(photo):
    assert set(np.unique(np.asarray(to_rgb(photo.convert("1"))))) == {0, 255}


def test_palette_is_looked_up(photo):
    palette = photo.quantize(200)
    assert np.array_equal(np.asarray(to_rgb(palette)), np.asarray(palette.convert("RGB")))


def test_opaque_alpha_changes_nothing(photo):
    opaque = photo.convert("RGBA")
    assert np.array_equal(np.asarray(to_rgb(opaque)), np.asarray(photo))


HIDDEN = {
    "RGBA": Image.new("RGBA", (8, 8), (10, 200, 30, 0)),
    "RGBa": Image.new("RGBa", (8, 8), (10, 200, 30, 0)),
    "LA": Image.new("LA", (8, 8), (90, 0)),
    "La": Image.new("La", (8, 8), (90, 0)),
    "P": Image.new("P", (8, 8), 3),
    "RGB": Image.new("RGB", (8, 8), (10, 200, 30)),
}
HIDDEN["P"].putpalette([10, 200, 30] * 4 + [70, 80, 90] * 252)
HIDDEN["P"].info["transparency"] = 3
HIDDEN["RGB"].info["transparency"] = (10, 200, 30)


@pytest.mark.parametrize("mode", HIDDEN)
def test_transparent_pixels_are_white_beside_visible_ones(mode):
    image = HIDDEN[mode].copy()
    image.putpixel((2, 1), {1: 7, 2: (40, 255), 3: (1, 2, 3)}.get(len(mode), (70, 80, 90, 255)))
    found = np.asarray(to_rgb(image)).astype(int)
    assert (found == 255).all(-1).sum() == 63 and (found[1, 2] < 100).all()


@pytest.mark.parametrize("mode", HIDDEN)
def test_where_no_pixel_is_visible_colours_are_as_stored(mode):
    """Renderers leave alpha at 0 (AirSim), and Photoshop's BMP of 32 bits does."""
    expected = [90, 90, 90] if mode in ("LA", "La") else [10, 200, 30]
    assert (np.asarray(to_rgb(HIDDEN[mode])) == expected).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_files_where_no_pixel_is_visible(photo, kind):
    hidden = photo.copy()
    hidden.putalpha(0)
    content = encoded(hidden, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(decode_image(content, "a")), np.asarray(photo))


def test_a_bmp_of_32_bits_whose_alpha_is_empty():
    fields = (108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiIIIIII", *fields).ljust(108, b"\0")
    content = b"BM" + struct.pack("<IHHI", 138, 0, 0, 122) + head + bytes([30, 200, 10, 0]) * 4
    assert (np.asarray(decode_image(content, "a")) == [10, 200, 30]).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    rgb = np.asarray(load_image(path))
    assert rgb[0, 0, 0] == 0
    assert rgb[-1, -1, 0] == 255
    assert np.abs(rgb[..., 0] - values / 257).max() <= 0.5 + 1e-9


def test_grey_of_few_values_stays_dark(tmp_path):
    """What its file states is what counts, not what one image holds of it."""
    for suffix in ("png", "tiff"):
        Image.fromarray(np.full((4, 4), 16448, np.uint16)).save(tmp_path / f"dark.{suffix}")
        assert (np.asarray(load_image(tmp_path / f"dark.{suffix}")) == 64).all()
    (tmp_path / "dark.pgm").write_bytes(b"P5 4 4 1023\n" + np.full(16, 8, ">u2").tobytes())
    assert (np.asarray(load_image(tmp_path / "dark.pgm")) == 2).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("highest", [1, 255, 1023, 4095, 16383])
def test_8_to_14_bits_in_16_are_refused(tmp_path, suffix, highest):
    """They would be black, or dark (industrial and thermal cameras)."""
    Image.fromarray(np.full((4, 4), highest, np.uint16)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(
        InputError, match=rf"a\.{suffix}: .* found values up to {highest}, of unknown"
    ):
        load_image(tmp_path / f"a.{suffix}")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / f"night.{suffix}")
    assert not np.asarray(load_image(tmp_path / f"night.{suffix}")).any()


GREY = np.arange(0, 240, 10).reshape(4, 6).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["<u4", "<i4", ">i4", "<i2", ">i2", "i1"])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_of_unknown_range_are_refused(tmp_path, dtype, sign):
    values = (sign * (GREY.astype(np.int64) // 2)).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(values, {"u": 1, "i": 2}[values.dtype.kind]))
    line = r"a\.tif: expected 8 or 16 bits a channel, unsigned, found signed .*of unknown range"
    with pytest.raises(InputError, match=line):
        load_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match="of unknown range; scale them to"):
        to_rgb(Image.fromarray(values.astype(np.int32)))


def tiff(values, sample_format=1, photometric=1, bits=None):
    """A TIFF file of one grey channel, made by hand."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    (height, width), raw, bits = values.shape, values.tobytes(), bits or 8 * values.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(raw), 339: sample_format}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(raw))
    return head + raw + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def test_grey_of_12_bits(tmp_path):
    """Two values in three bytes."""
    values = GREY.ravel().astype(int) * 4095 // 255
    pairs = zip(values[::2].tolist(), values[1::2].tolist(), strict=True)
    raw = b"".join((one << 12 | two).to_bytes(3) for one, two in pairs)
    content = tiff(np.frombuffer(raw, np.uint8).reshape(4, 9), bits=12)
    content = content.replace(
        struct.pack("<HHII", 256, 4, 1, 9), struct.pack("<HHII", 256, 4, 1, 6)
    )
    (tmp_path / "a.tif").write_bytes(content)
    off = np.asarray(load_image(tmp_path / "a.tif"))[..., 0].astype(int) - GREY
    assert np.abs(off).max() <= 1


@pytest.mark.parametrize(("dtype", "most"), [("u1", 255), ("<u2", 65535)])
@pytest.mark.parametrize("photometric", [0, 1])
def test_white_may_be_zero(tmp_path, dtype, most, photometric):
    values = GREY.astype(dtype) * (most // 255)
    stored = values if photometric else most - values
    (tmp_path / "a.tif").write_bytes(tiff(stored.astype(dtype), photometric=photometric))
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], GREY)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_one_transparent_value_of_png(deep, colour):
    values = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1) if colour else GREY
    dtype, factor = (">u2", 257) if deep else (">u1", 1)
    samples = (values.astype(int) * factor).astype(dtype)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", 6, 4, 16 if deep else 8, 2 if colour else 0, 0, 0, 0)
    hidden = b"".join(struct.pack(">H", int(value)) for value in samples[2, 3].ravel())
    chunks = {b"IHDR": header, b"tRNS": hidden, b"IDAT": zlib.compress(rows), b"IEND": b""}
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        content = with_chunk(content, kind, data, len(content))
    expected = values.copy()
    expected[2, 3] = 255
    found = np.asarray(decode_image(content, "a"))
    assert np.array_equal(found if colour else found[..., 0], expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_value_of_few_bits(bits):
    values = np.arange(8) % 2**bits
    row = np.packbits(np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, -bits:])
    for hidden in range(2**bits):
        header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
        chunks = {b"IHDR": header, b"tRNS": struct.pack(">H", hidden)}
        chunks |= {b"IDAT": zlib.compress(b"\0" + row.tobytes()), b"IEND": b""}
        content = b"\x89PNG\r\n\x1a\n"
        for kind, data in chunks.items():
            content = with_chunk(content, kind, data, len(content))
        expected = np.where(values == hidden, 255, values * 255 // (2**bits - 1))
        assert np.array_equal(np.asarray(decode_image(content, "a"))[0, :, 0], expected)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_colours_of_16_bits(dtype):
    values = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
    deep = (values.astype(int) * 257).astype(dtype)
    plain = encoded(Image.fromarray(values), "TIFF")
    content = tiff(deep.reshape(4, 18), photometric=2)
    order, (width, channels) = dtype[0], ((256, 18), (277, 1))
    for (tag, old), new in zip((width, channels), (6, 3), strict=True):
        entry = [struct.pack(f"{order}HHII", tag, 4, 1, value) for value in (old, new)]
        content = content.replace(*entry)
    assert np.array_equal(np.asarray(decode_image(content, "a")), values)
    assert np.array_equal(np.asarray(decode_image(plain, "a")), values)


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_8_bits_in_colours_of_16_are_refused(kind, tmp_path):
    """PNG's kinds of colours: Pillow reads the high bytes alone, which are black."""
    values = np.repeat(GREY[..., None], {2: 3, 4: 2, 6: 4}[kind], axis=2).astype(int)
    header = struct.pack(">IIBBBBB", 6, 4, 16, kind, 0, 0, 0)
    for factor in (1, 64, 257):
        rows = b"".join(b"\0" + row.tobytes() for row in (values * factor).astype(">u2"))
        content = b"\x89PNG\r\n\x1a\n"
        for name, data in {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}.items():
            content = with_chunk(content, name, data, len(content))
        (tmp_path / f"{factor}.png").write_bytes(content)
    assert np.asarray(load_image(tmp_path / "257.png")).any()
    for file in (tmp_path / "1.png", tmp_path / "64.png"):
        for dark in (file, Image.open(io.BytesIO(file.read_bytes()))):
            with pytest.raises(InputError, match="found 16-bit colours below a quarter"):
                to_rgb(dark)


@pytest.mark.parametrize("kind", ["P3", "P6"])
def test_8_bits_in_ppm_of_16_are_refused(kind, tmp_path):
    """Pillow rounds those of 8 bits to 0 and 1."""
    values = np.repeat(GREY[..., None], 3, axis=2).astype(int)
    for factor in (1, 64, 257):
        deep = values * factor
        text = " ".join(map(str, deep.flat)).encode()
        data = text if kind == "P3" else deep.astype(">u2").tobytes()
        (tmp_path / f"{factor}.ppm").write_bytes(f"{kind} 6 4 65535\n".encode() + data)
    assert np.array_equal(load_image(tmp_path / "257.ppm"), values)
    for name in ("1.ppm", "64.ppm"):
        with pytest.raises(InputError, match=f"{name}: .* found 16-bit colours below a quarter"):
            load_image(tmp_path / name)


ALPHA = np.full((4, 6), 128, np.uint8)
ON_WHITE = np.round(GREY * (128 / 255) + 255 * (127 / 255))


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA", "P"])
def test_half_transparent_pixels_on_white(mode):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    if mode == "P":
        image = Image.fromarray(GREY, "P")
        image.putpalette([each for grey in range(256) for each in (grey, grey, grey, 128)], "RGBA")
    elif mode != "LA":
        image = image.convert(mode) if mode == "La" else image.convert("RGBA").convert(mode)
    found = np.asarray(to_rgb(image)).astype(int)
    assert np.abs(found - ON_WHITE[..., None]).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX", "LAB"])
def test_other_colour_spaces(photo, mode):
    image = photo.convert(mode)
    off = np.asarray(to_rgb(image)).astype(int) - np.asarray(photo)
    assert np.abs(off).mean() < 3


def test_cmyk_jpeg(tmp_path, photo):
    path = tmp_path / "print.jpg"
    photo.convert("CMYK").save(path, quality=95)
    difference = np.asarray(load_image(path), float) - np.asarray(photo, float)
    assert np.abs(difference).mean() < 8
