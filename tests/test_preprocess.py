import io
import json
import os
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from exif import encoded, with_chunk
from PIL import Image
from recipe import GOLDEN

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import Preprocess, decode_image, load_image, normalize, to_rgb

STREET = GOLDEN / "street.jpg"


@pytest.fixture
def golden():
    return np.load(GOLDEN / "preprocess.npz")


@pytest.fixture
def photo():
    return Image.open(STREET).convert("RGB").resize((40, 30))


def test_official_resize_and_normalisation_pixel_for_pixel(golden, parity):
    assert json.loads(str(golden["meta"]))["source"] == STREET.name
    preprocess = Preprocess((320, 320))
    resized = preprocess.resize(STREET)
    off = np.abs(resized[::2, ::2].astype(int) - golden["resize_bilinear"]).max()
    parity("resize of the evaluation transform, grey levels", off, 0)
    assert np.array_equal(resized.sum((0, 1), dtype=np.int64), golden["resize_bilinear_sum"])
    crop = golden["normalized_crop"].transpose(1, 2, 0)
    normalised = preprocess(STREET)
    assert normalised.shape == (1, 320, 320, 3)
    assert normalised.dtype == np.float32
    height, width = crop.shape[:2]
    found = [
        (y, x)
        for y in range(0, 321 - height)
        for x in range(0, 321 - width)
        if np.array_equal(normalised[0, y, x], crop[0, 0])
        and np.array_equal(normalised[0, y : y + height, x : x + width], crop)
    ]
    assert len(found) == 1


@pytest.mark.parametrize("size", [(320, 320), (16, 24)])
def test_bicubic_pixel_for_pixel(size):
    expected = Image.open(STREET).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
    found = Preprocess(size, "bicubic").resize(STREET)
    assert np.array_equal(found, np.asarray(expected))
    assert not np.array_equal(found, Preprocess(size).resize(STREET))
    assert np.array_equal(Preprocess(size, "bicubic")(STREET)[0], normalize(found))


def test_filters_that_are_none():
    with pytest.raises(InputError, match="interpolation: unknown name 'cubic'; closest: bicubic"):
        Preprocess((8, 8), "cubic")


@pytest.mark.parametrize("size", [[4, 6], np.array([4, 6]), (np.int64(4), np.int32(6))])
def test_sizes_of_numpy(size):
    preprocess = Preprocess(size)
    assert preprocess == Preprocess((4, 6)) and hash(preprocess)
    assert preprocess(np.zeros((9, 9, 3), np.uint8)).shape == (1, 4, 6, 3)


@pytest.mark.parametrize("size", [320, (320,), (0, 320), (320.0, 320.0), "320", (3, 320, 320)])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match=r"image_size: expected \(height, width\), found"):
        Preprocess(size)


def test_all_kinds_of_input_agree(photo):
    preprocess = Preprocess((16, 24))
    array = np.asarray(photo)
    expected = preprocess([photo])
    assert expected.shape == (1, 16, 24, 3)
    for same in (photo, array, [array], array[None], (image for image in [photo])):
        assert np.array_equal(preprocess(same), expected)
    batch = preprocess([photo, np.zeros((7, 9, 3), np.uint8), STREET])
    assert batch.shape == (3, 16, 24, 3)
    assert np.array_equal(batch[:1], expected)


def test_arrays_of_other_libraries(photo):
    preprocess, array = Preprocess((8, 8)), np.asarray(photo)
    expected = preprocess(array)
    views = memoryview(array), memoryview(np.stack([array]))  # as PyAV and GStreamer give them
    for foreign in (jnp.asarray(array), torch.tensor(array), jnp.asarray(array)[None], *views):
        assert np.array_equal(preprocess(foreign), expected)


@pytest.mark.parametrize("options", [{"requires_grad": True}, {"device": "meta"}])
def test_tensors_that_numpy_does_not_read(options):
    for image in (tensor := torch.zeros((4, 4, 3), **options), [tensor]):
        with pytest.raises(InputError, match="expected an image, found Tensor: "):
            Preprocess((8, 8))(image)


def test_paths_as_text_and_as_path_agree():
    preprocess = Preprocess((20, 20))
    assert np.array_equal(preprocess(str(STREET)), preprocess([STREET]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, orientation):
    # What a camera held at this orientation would have stored for the upright photo.
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = photo if undo is None else photo.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "png", exif=exif)
    upright = to_rgb(Image.open(file))
    assert np.array_equal(np.asarray(upright), np.asarray(photo))


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
    """What 16 bits hold is what counts, not what one image holds of it."""
    for suffix in ("png", "tiff"):
        Image.fromarray(np.full((4, 4), 514, np.uint16)).save(tmp_path / f"dark.{suffix}")
        assert (np.asarray(load_image(tmp_path / f"dark.{suffix}")) == 2).all()
    (tmp_path / "dark.pgm").write_bytes(b"P5 4 4 1023\n" + np.full(16, 8, ">u2").tobytes())
    assert (np.asarray(load_image(tmp_path / "dark.pgm")) == 2).all()


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


def test_normalize_spans_the_usual_range():
    black, white = normalize(np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8))[0, 0]
    assert np.allclose(black, [-2.117904, -2.035714, -1.804444], atol=1e-6)
    assert np.allclose(white, [2.248908, 2.428571, 2.64], atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(3, np.uint8),
        3,
        "a\0b.jpg",
        "\ud800.jpg",
        [np.zeros((4, 4)), np.zeros((4, 3))],
        Image.new("F", (4, 4)),
        Image.new("RGB", (4, 4)).crop((1, 1, 1, 3)),
        Image.open(io.BytesIO((GOLDEN / "street.jpg").read_bytes()[:2000])),
    ],
)
def test_what_is_no_image_is_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        Preprocess((8, 8))([wrong])


def test_nothing_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Preprocess((8, 8))([])


def test_what_is_not_even_a_list_is_refused():
    with pytest.raises(InputError, match="expected images, arrays or paths, found 3"):
        Preprocess((8, 8))(3)


def test_malformed_headers_are_named(tmp_path, photo):
    for name, content in {"a.ppm": b"P6 2 x 255\n", "b.ppm": b"P6 2 2 99999\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: expected a whole image"):
            load_image(tmp_path / name)
    photo.convert("F").save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"float.tiff: expected 8 or 16 bits a channel"):
        load_image(tmp_path / "float.tiff")


def test_broken_files_are_named(tmp_path):
    whole = STREET.read_bytes()
    contents = {"empty": b"", "text": b"no image", "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.jpg: expected"):
            load_image(path)
    with pytest.raises(InputError, match=r"absent.jpg: expected an image, found no such file"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(InputError, match="expected"):
        load_image(tmp_path)


def test_jpegs_of_kinds_that_cannot_be_read(photo):
    """Of 12 bits a channel, and JPEG-LS; a header alone is no kind of its own."""
    content = encoded(photo, "JPEG")
    frame = content.find(b"\xff\xc0")
    deep = content[: frame + 4] + b"\x0c" + content[frame + 5 :]
    lossless = content[:frame] + b"\xff\xf7" + content[frame + 2 :]
    for other in (deep, lossless):
        with pytest.raises(InputError, match="in a usual compression, found a JPEG of a kind that"):
            decode_image(other, "a")
    for cut in (2, 20, frame):
        with pytest.raises(InputError, match="a: expected a whole image, found a broken one"):
            decode_image(content[:cut], "a")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: path.mkdir(), "found a folder"),
        (os.mkfifo, "found a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "found a pipe, a socket or a device"),
        (lambda path: path.symlink_to(path), "may not be read: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("absent"), "found no such file"),
        (lambda path: path.symlink_to(STREET / "a.jpg"), "may not be read: Not a directory"),
    ],
)
def test_paths_of_no_file(tmp_path, make, found):
    """Nobody may ever write into a pipe."""
    make(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=f"a.jpg: expected an image, {found}"):
        load_image(tmp_path / "a.jpg")


def test_links_to_photos(tmp_path):
    (tmp_path / "a.jpg").symlink_to(STREET)
    assert load_image(tmp_path / "a.jpg").size == load_image(STREET).size


def test_opened_images_that_are_broken_or_closed(photo):
    whole = bytearray(encoded(photo, "PNG"))
    at = whole.find(b"IDAT")
    whole[at - 4 : at] = struct.pack(">I", 10)
    with Image.open(STREET) as closed:
        pass
    stream = io.BytesIO(encoded(photo, "JPEG"))
    lost = Image.open(stream)
    stream.close()
    for image in (Image.open(io.BytesIO(whole)), closed, lost):
        with pytest.raises(InputError, match=r"found a broken or closed one \(\w+"):
            Preprocess((8, 8))(image)


def test_arrays_of_paths_and_of_images(photo):
    preprocess = Preprocess((8, 8))
    assert np.array_equal(preprocess(np.array([str(STREET)] * 2)), preprocess([STREET] * 2))
    images = np.empty(2, object)
    images[:] = [np.asarray(photo), np.asarray(photo)[:9]]
    assert np.array_equal(preprocess(images), preprocess(list(images)))


@pytest.mark.parametrize("wrong", [b"\xff\xd8", bytearray(b"\xff\xd8"), io.BytesIO(b"\xff\xd8")])
def test_content_in_place_of_images(wrong):
    with pytest.raises(InputError, match="expected images, arrays or paths, found"):
        Preprocess((8, 8))(wrong)


@pytest.mark.parametrize(("limit", "told"), [(None, 178_956_970), (10**6, 2 * 10**6)])
def test_an_image_beyond_pillows_own_limit(monkeypatch, limit, told):
    """Which a user's program may have set."""
    if limit:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    header = struct.pack(">IIBBBBB", 20000, 10000, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in {b"IHDR": header, b"IDAT": b"", b"IEND": b""}.items():
        content = with_chunk(content, kind, data, len(content))
    line = (
        r"a: expected an image of at most 89,478,485 pixels, found one that Pillow refuses \(.*"
        rf"200000000 pixels\) exceeds limit of {told} pixels"
    )
    with pytest.raises(InputError, match=line):
        decode_image(content, "a")
