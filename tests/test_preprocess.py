import gzip
import io
import json
import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from exif import encoded, with_chunk
from PIL import Image
from recipe import GOLDEN

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import Preprocess, decode_image, load_image, normalize

STREET = GOLDEN / "street.jpg"


@pytest.fixture
def golden():
    return np.load(GOLDEN / "preprocess.npz")


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


def test_grey_of_one_channel(photo):
    grey, preprocess = np.asarray(photo.convert("L")), Preprocess((8, 8))
    for same in (grey[..., None], [grey[..., None]], np.stack([grey[..., None]])):
        assert np.array_equal(preprocess(same), preprocess(grey))


@pytest.mark.parametrize("options", [{"requires_grad": True}, {"device": "meta"}])
def test_tensors_that_numpy_does_not_read(options):
    for image in (tensor := torch.zeros((4, 4, 3), **options), [tensor]):
        with pytest.raises(InputError, match="expected an image, found Tensor: "):
            Preprocess((8, 8))(image)


def test_paths_as_text_and_as_path_agree():
    preprocess = Preprocess((20, 20))
    assert np.array_equal(preprocess(str(STREET)), preprocess([STREET]))


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


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            "a Git LFS pointer; git",
        ),
        (b"/annex/objects/MD5E-s9--0.jpg\n", "a pointer of git-annex; git annex get"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC or AVIF; convert it"),
        (b"\0\0\0\x1cftypavif" + bytes(100), "HEIC or AVIF; convert it"),
        (gzip.compress(STREET.read_bytes(), mtime=0), "a compressed file"),
        (b"no image", "none of these"),
    ],
)
def test_files_in_the_place_of_photos_are_called_what_they_are(tmp_path, content, found):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"a.jpg: expected an image \(.*\), found {found}"):
        load_image(tmp_path / "a.jpg")


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
    for dtype in (str, np.dtypes.StringDType()):
        paths = np.array([str(STREET)] * 2, dtype)
        assert np.array_equal(preprocess(paths), preprocess([STREET] * 2))
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
