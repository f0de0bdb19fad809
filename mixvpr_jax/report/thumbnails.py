"""Small pictures of many photos, within a number of bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image, features
from tqdm import tqdm

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import FORMATS, load_image, to_rgb
from mixvpr_jax.storage import AnyPath
from mixvpr_jax.workers import num_processors

# A JPEG's tables alone take half of a very small picture; builds of Pillow without WebP are rare.
FORMAT = "WEBP" if features.check("webp") else "JPEG"
MIME = f"image/{FORMAT.lower()}"

SIZES = (
    (320, 80),
    (288, 75),
    (256, 70),
    (224, 65),
    (192, 60),
    (160, 50),
    (128, 45),
    (112, 35),
    (96, 30),
    (80, 25),
)
"""Longer side in pixels and quality, best first."""

SAMPLE = 24
"""How many of the photos are looked at in order to choose."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        width: In pixels.
        height: In pixels.
        data: The encoded file, of the type `MIME`; empty where the photo cannot be read.
        problem: Why not.
    """

    width: int
    height: int
    data: bytes
    problem: str = ""


def make_thumbnails(paths: Sequence[AnyPath], max_bytes: int) -> list[Thumbnail]:
    """Makes a small picture of every photo.

    All are of one size and quality: the best with which, by the size of a sample, all of them
    take at most `max_bytes`; the smallest of `SIZES` where none does.
    """
    # Pillow lets go of the interpreter while it reads, resizes and writes.
    with ThreadPoolExecutor(num_processors()) as pool:
        side, quality = _choose_size(paths, max_bytes, pool)
        made = pool.map(lambda path: _thumbnail_or_none(path, side, quality), paths)
        # A bar on terminals: ten thousand queries take a minute.
        return list(tqdm(made, "report", len(paths), unit="picture", disable=None))


def _choose_size(
    paths: Sequence[AnyPath], max_bytes: int, pool: ThreadPoolExecutor
) -> tuple[int, int]:
    sample = paths[:: max(len(paths) // SAMPLE, 1)][:SAMPLE]
    for side, quality in SIZES[:-1]:
        made = pool.map(lambda path, s=side, q=quality: _thumbnail_or_none(path, s, q), sample)
        if sum(len(one.data) for one in made) * len(paths) <= max_bytes * len(sample):
            return side, quality
    return SIZES[-1]


def _thumbnail_or_none(path: AnyPath, side: int, quality: int) -> Thumbnail:
    try:
        return make_thumbnail(path, side, quality)
    except (InputError, OSError) as error:
        return Thumbnail(4, 3, b"", str(error))


def make_thumbnail(path: AnyPath, side: int, quality: int) -> Thumbnail:
    """A photo, upright, whose longer side is at most `side` pixels."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            scale = side / max(file.size)
            # A JPEG is decoded at half its size, a quarter or an eighth where that is enough.
            file.draft(None, (round(file.width * scale), round(file.height * scale)))
            image = to_rgb(file)
    except Exception:
        image = load_image(path)  # which says what is wrong
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # The page shows pixels: a photo's comments, position and profile stay where they are.
    pixels = Image.frombytes("RGB", image.size, image.tobytes())
    pixels.save(buffer, FORMAT, quality=quality, method=2)
    return Thumbnail(image.width, image.height, buffer.getvalue())
