"""The official evaluation transform: decode, resize with Pillow, normalise as for ImageNet."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from mixvpr_jax.checks import require_known, to_array, to_size
from mixvpr_jax.errors import InputError, text_of, what_else
from mixvpr_jax.models.config import Interpolation
from mixvpr_jax.orientation import JPEG_START, entries, is_sound, orientation_of, separate, upright
from mixvpr_jax.storage import as_path, reaching

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

# The formats of benchmark photos. Pillow knows more, such as EPS, a program that Ghostscript runs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # above which Pillow suspects a decompression bomb
# Errors of one path, not of its disk: no access, a link to itself, a file in a folder's place.
OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)

DEPTHS = "8 or 16 bits a channel, unsigned"
DIM = 2**14  # cameras of 8 to 14 bits stay below it; scaled as 16 bits, they would come out dark
# TIFF tags and values of theirs.
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES, PLANAR, EXTRA_SAMPLES = 258, 262, 277, 284, 338
SUBFILE_TYPE, COLOR_MAP, SAMPLE_FORMAT = 254, 320, 339
WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2
# Pillow's own reader takes uncompressed planes of 16 bits for bytes: noise (tifffile writes
# [3, h, w] so). libtiff, which reads all compressed files anyway, knows them.
TiffImagePlugin.READ_LIBTIFF = features.check("libtiff")

ImageLike = Image.Image | np.ndarray | str | os.PathLike
"""A PIL image of any mode, a uint8 array [h, w, 3] (grey: [h, w] or [h, w, 1]), or a file's path.

Arrays are RGB; those of OpenCV and cv_bridge are BGR: give `array[..., ::-1]`.
"""


@dataclass(frozen=True)
class Preprocess:
    """Turns images into a model's input.

    Attributes:
        image_size: Height and width in pixels after resizing.
        interpolation: Pillow's resize filter.
    """

    image_size: tuple[int, int]
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        to_size(self, "image_size")
        require_known("interpolation", self.interpolation, get_args(Interpolation))

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Resizes and normalises one image, several, or a batch.

        Args:
            images: An image, an iterable of images of any sizes, or a uint8 array [b, h, w, 3], in
                RGB (OpenCV's are BGR).

        Returns:
            [b, height, width, 3] float32, normalised; a single image is a batch of one.

        Raises:
            InputError: An unreadable file, or an array that is no uint8 image.
        """
        if isinstance(images, Image.Image | str | os.PathLike):
            images = [images]
        elif isinstance(images, memoryview) or hasattr(images, "__array__"):
            array = to_array("expected an image", images)
            are_several = array.ndim == 4 or (array.ndim == 1 and array.dtype.kind in "OUT")
            images = list(array) if are_several else [array]  # O: of images; U, T: of paths
        elif not isinstance(images, Iterable) or isinstance(images, bytes | bytearray | io.IOBase):
            raise InputError(f"images: expected images, arrays or paths, found {images!r:.100}")
        resized = [self.resize(image) for image in images]
        if not resized:
            raise InputError("images: expected at least one, found none")
        return normalize(np.stack(resized))

    def resize(self, image: ImageLike) -> np.ndarray:
        """One image as uint8 [height, width, 3], resized with antialiasing."""
        height, width = self.image_size
        resampling = Image.Resampling[self.interpolation.upper()]
        return np.asarray(to_rgb(image).resize((width, height), resampling))


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] → float32, (x / 255 - mean) / std, rounded step by step as in torchvision."""
    scaled = images.astype(np.float32)
    scaled /= 255
    scaled -= IMAGENET_MEAN
    scaled /= IMAGENET_STD
    return scaled


def load_image(path: str | os.PathLike) -> Image.Image:
    """Reads an image file, upright and in mode RGB; see `to_rgb`."""
    path = as_path(path)
    try:
        with reaching(path, but=FileNotFoundError):
            if isinstance(path, Path) and not stat.S_ISREG(mode := path.stat().st_mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
                raise InputError(f"{path}: expected an image, found {kind}")
            data = path.read_bytes()
    except (FileNotFoundError, ValueError):  # ValueError: a name that no file can have
        raise InputError(f"{path}: expected an image, found no such file") from None
    except OSError as error:
        if error.errno not in OF_THE_FILE:
            raise
        raise InputError(f"{path}: expected an image, may not be read: {error.strerror}") from None
    return decode_image(data, path)


def decode_image(data: bytes, name: str | os.PathLike) -> Image.Image:
    """Decodes the bytes of an image file, upright and in mode RGB; errors start with `name`."""
    if not data:
        raise InputError(f"{name}: expected an image, found an empty file")
    if not is_sound(data):
        raise InputError(
            f"{name}: expected a whole image, found a broken one (its pixel data end early or fail "
            "their checksum)"
        )
    orientation, pixels = separate(data)
    try:
        with Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"expected an image of at most {MAX_PIXELS:,} pixels, found "
                    f"{image.width:,} x {image.height:,}"
                )
            if image.format == "PNG" and data[25] == 0 and "transparency" in image.info:
                # Pillow scales grey of 2 and 4 bits to 8, but not the value that is transparent.
                image.info["transparency"] *= {2: 85, 4: 17}.get(data[24], 1)
            return upright(_to_rgb(image, str(image.tile)), orientation)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Image.DecompressionBombError as error:  # by PIL.Image.MAX_IMAGE_PIXELS, which is global
        raise InputError(
            f"{name}: expected an image of at most {MAX_PIXELS:,} pixels, found one that Pillow "
            f"refuses ({error})"
        ) from None
    except UnidentifiedImageError:
        kind = "JPEG" if data.startswith(JPEG_START) else "TIFF" if any(entries(data)) else ""
        if kind:
            raise InputError(
                f"{name}: expected {DEPTHS}, in a usual compression, found a {kind} of a kind that "
                "cannot be read; save it so"
            ) from None
        known, found = ", ".join(FORMATS), what_else(data[:512]) or "none of these"
        raise InputError(f"{name}: expected an image ({known}), found {found}") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and more
        raise InputError(f"{name}: expected a whole image, found a broken one ({error})") from error


def to_rgb(image: ImageLike) -> Image.Image:
    """Converts an image to mode RGB, upright as EXIF or XMP states.

    Transparent pixels are composited on white, unless all are: then the colours are as stored. Grey
    of 12 and 16 bits is scaled linearly to 8.

    Raises:
        InputError: An unreadable file, an array that is no image, or floats, signed or 32-bit
            integers, whose range is unknown, or 16 bits below a quarter of their range.
    """
    if isinstance(image, str | os.PathLike):
        return load_image(image)
    if not isinstance(image, Image.Image):
        image = _from_array(to_array("expected an image", image))
    if 0 in image.size:
        raise InputError(f"expected an image with pixels, found {image.width} x {image.height}")
    tiles = str(getattr(image, "tile", ""))  # none are left by loading
    try:
        image.load()  # turns a TIFF upright
    except Exception as error:  # AssertionError and ValueError: its file is closed
        line = f"expected a whole image, found a broken or closed one ({text_of(error)})"
        raise InputError(line) from error
    return upright(_to_rgb(image, tiles), orientation_of(image))


def _to_rgb(image: Image.Image, tiles: str) -> Image.Image:
    """Converts an image to mode RGB without turning it; `tiles` tell how its file holds them."""
    tags = getattr(image, "tag_v2", {})
    kind = tags.get(SUBFILE_TYPE)
    if isinstance(kind, int) and kind & 1:  # of reduced size
        raise InputError(
            "expected a photo, found a raw one whose thumbnail alone can be read; convert it to "
            "JPEG"
        )
    if image.mode[0] == "P" and max(tags.get(COLOR_MAP, (256,))) < 256:  # of 8 bits, not of 16
        image.putpalette(bytes(tags[COLOR_MAP]), "RGB;L")
    is_deep = ";16" in tiles or "', 65535)" in tiles  # the latter of PPM
    if image.mode.startswith("I"):
        image = _eight_bits(image, states_range=image.mode == "I" and not is_deep)
    # Pillow keeps the high bytes alone, and rounds PPM.
    if image.mode.startswith("RGB") and is_deep and np.asarray(image)[..., :3].max() <= DIM >> 8:
        raise InputError(
            f"expected {DEPTHS}, found 16-bit colours below a quarter of their range, black or of "
            "unknown range; save as 8 bits"
        )
    if image.mode == "F":
        raise InputError(f"expected {DEPTHS}, found floats of unknown range")
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise InputError(f"expected {DEPTHS}, found signed integers of unknown range")
    if tags.get(PLANAR) == SEPARATE_PLANES:
        if image.mode in ("LA", "La", "PA"):
            raise InputError(
                "expected grey beside its alpha, found separate planes; save it as PNG"
            )
        # Pillow takes the first of several grey ones, and divides colours by a fourth plane.
        of_bands = image.mode == "L" and tags.get(SAMPLES, 1) > 2
        if of_bands or (image.mode == "RGBA" and EXTRA_SAMPLES not in tags):
            raise InputError(
                f"expected grey or RGB, found {tags[SAMPLES]} bands in separate planes without a "
                "meaning for each; save red, green and blue as PNG"
            )
    # The fourth sample of a TIFF is alpha only if it says so; else it may be near infrared.
    if image.has_transparency_data and (not tags or EXTRA_SAMPLES in tags):
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        # Alpha of 0 everywhere was never filled, as in AirSim's frames and Photoshop's BMP.
        if layer.getchannel("A").getextrema() != (0, 0):
            layer = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        image = layer
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


def _eight_bits(image: Image.Image, *, states_range: bool) -> Image.Image:
    """Scales grey of 12 or 16 bits to 8 over the full range, which some PGM state."""
    if image.mode == "I" and image.format != "PPM":  # Pillow scales PPM to 16 bits
        raise InputError(
            f"expected {DEPTHS}, found signed or 32-bit integers of unknown range; scale them to "
            "0 … 255 or 0 … 65535, and save them as 8 or 16 bits"
        )
    tags, stored = getattr(image, "tag_v2", {}), np.asarray(image)
    most = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    if most == 65535 and 0 < stored.max() <= (255 if states_range else DIM):
        raise InputError(
            f"expected 16-bit grey, found values up to {stored.max()}, of unknown range; scale and "
            "save them as 8 bits"
        )
    values = stored.astype(np.int32)
    values *= 255
    values += most // 2
    values //= most  # rounds to nearest; in place to save memory
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts up to 8 bits only
        values = 255 - values
    values[stored == image.info.get("transparency", -1)] = 255
    return Image.fromarray(values.astype(np.uint8))


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:  # grey of TensorFlow and of camera drivers
        array = array[..., 0]
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (colour or array.ndim == 2) or 0 in array.shape:
        raise InputError(
            "expected an image as a uint8 array [h, w, 3] or [h, w], "
            f"found {array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array)
