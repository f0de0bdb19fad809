import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from recipe import GOLDEN

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import Preprocess, load_image, normalize, to_rgb

STREET = GOLDEN / "street.jpg"


@pytest.fixture
def golden():
    return np.load(GOLDEN / "preprocess.npz")


@pytest.fixture
def photo():
    return Image.open(STREET).convert("RGB").resize((40, 30))


def test_official_resize_and_normalisation_pixel_for_pixel(golden):
    assert json.loads(str(golden["meta"]))["source"] == STREET.name
    preprocess = Preprocess((320, 320))
    resized = preprocess.resize(STREET)
    assert np.array_equal(resized[::2, ::2], golden["resize_bilinear"])
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
    for foreign in (jnp.asarray(array), torch.tensor(array), jnp.asarray(array)[None]):
        assert np.array_equal(preprocess(foreign), expected)


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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode):
    hidden = Image.new("RGBA", (8, 8), (10, 200, 30, 0))
    image = hidden.convert("LA") if mode == "LA" else hidden
    if mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.putpalette([10, 200, 30] * 256)
        image.info["transparency"] = 3
    assert (np.asarray(to_rgb(image)) == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    rgb = np.asarray(load_image(path))
    assert rgb[0, 0, 0] == 0
    assert rgb[-1, -1, 0] == 255
    assert np.abs(rgb[..., 0] - values / 257).max() <= 0.5 + 1e-9


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
        Image.new("F", (4, 4)),
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
