"""Draws the photos beside this script: the generated town as a camera would have taken it.

    PYTHONPATH=. python tests/golden/draw_photos.py FOLDER

Drawing and encoding differ between versions of NumPy and Pillow, hence the photos themselves are
kept, and the golden values are of them. Each has its own size and encoding; two lie on their side
and say so by EXIF.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from demo.town import CityConfig, draw_view

ORIENTATION, TURNED = 274, {1: None, 6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}
GAMMA, FULL_WELL, READ_NOISE, VIGNETTE = 2.2, 4000, 6.0, 0.45
# name: (place, view, (width, height), photons of white, quality, subsampling, progressive, turn)
PHOTOS = {
    "database/0.jpg": (0, 0, (400, 300), 4000, 85, 2, False, 1),
    "database/1.jpg": (1, 0, (320, 240), 1500, 90, 0, False, 1),
    "database/2.jpg": (2, 0, (300, 400), 3000, 75, 2, True, 1),
    "database/3.jpg": (3, 0, (426, 240), 4000, 80, 2, False, 6),
    "database/4.jpg": (4, 0, (333, 251), 600, 80, 1, False, 1),
    "database/5.jpg": (5, 0, (480, 360), 2000, 70, 2, False, 1),
    "queries/0.jpg": (0, 1, (352, 288), 2500, 85, 2, False, 1),
    "queries/1.jpg": (1, 1, (96, 72), 4000, 95, 0, False, 1),
    "queries/2.jpg": (2, 1, (400, 300), 300, 60, 2, True, 1),
    "queries/3.jpg": (3, 1, (240, 320), 3000, 88, 2, False, 3),
}


def expose(drawn: Image.Image, photons: float, rng: np.random.Generator) -> Image.Image:
    """A drawn picture behind a lens that darkens its corners, on a sensor that counts photons."""
    light = (np.asarray(drawn) / 255) ** GAMMA
    rows, columns = (np.linspace(-1, 1, count) for count in light.shape[:2])
    fall_off = 1 / (1 + VIGNETTE * (rows[:, None] ** 2 + columns**2) / 2) ** 2  # cos⁴
    counts = rng.poisson(light * fall_off[..., None] * photons)
    counts = counts + rng.normal(0, READ_NOISE * photons / FULL_WELL, counts.shape)
    values = np.clip(counts / photons, 0, 1) ** (1 / GAMMA)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def main() -> None:
    """Writes every photo of PHOTOS."""
    folder = Path(sys.argv[1])
    for index, (name, options) in enumerate(PHOTOS.items()):
        place, view, (width, height), photons, quality, subsampling, progressive, orientation = (
            options
        )
        town = CityConfig(6, 2, image_size=(height, width), difficulty=0.5, seed=7)
        photo = expose(draw_view(town, place, view), photons, np.random.default_rng(index))
        exif = Image.Exif()
        if (turn := TURNED[orientation]) is not None:
            photo, exif[ORIENTATION] = photo.transpose(turn), orientation
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        encoding = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
        photo.save(folder / name, exif=exif, **encoding)


if __name__ == "__main__":
    main()
