"""What differs between views of one place, and how light, season and the sensor show in colours."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from PIL import Image, ImageFilter

from demo.scene import Array, Material, Quads, Thing
from demo.street import Place

LEAST_BLUR_PX = 0.25
SUNLIGHT, SKYLIGHT, LAMP_TINT = np.array([[1.06, 1.0, 0.86], [0.94, 0.99, 1.08], [1.2, 0.95, 0.6]])
SNOW_COLOUR = (236, 240, 246)
BARE, BUDS, GREEN = (1.0, 0.75, 0.7), (1.2, 1.3, 0.9), (1.0, 1.0, 1.0)
GOLD, RED = (2.1, 1.25, 0.6), (1.9, 0.8, 0.5)
LEAF_TINTS = np.array([BARE, BARE, BUDS, BUDS, *[GREEN] * 5, GOLD, RED, BARE])  # by month


class Conditions:
    """What a photo is taken under; metres and degrees in the frame of the street.

    `night`, `cloud`, `snow`, `warmth` and `vignette` run from 0 to 1 (warmth from -1); `noise` and
    `contrast` are in the scale of pixel values 0 … 1.
    """

    def __init__(self, rng: Generator, hard: float, kerb_m: float) -> None:
        """Draws them in an order that never changes: the difficulty `hard` only scales them."""

        def swing(reach: float) -> float:
            return float(rng.uniform(-1, 1) * reach)

        x, y = swing(0.3 + hard * (kerb_m - 0.6)), swing(0.5 + 7.0 * hard)
        self.month = int(6.5 + swing(0.5 + 6 * hard)) % 12 + 1
        self.position_m = (x, y, 1.7 + rng.uniform(0, 1.0) * hard)
        self.heading_deg = swing(2 + 20 * hard)
        self.pitch_deg = 4 + swing(1 + 6 * hard)
        self.roll_deg = swing(2.5 * hard)
        self.field_of_view_deg = 72 + swing(2 + 16 * hard)
        self.sun_azimuth_deg = 120 + swing(20 + 160 * hard)
        self.sun_elevation_deg = 40 + swing(5 + 25 * hard)
        self.night = float(rng.uniform(0.3, 1)) * hard * (rng.random() < 0.35 * hard)
        self.cloud = float(np.clip(0.3 + swing(0.1 + 0.9 * hard), 0, 1))
        snows = float(rng.uniform(0.5, 1)) * (rng.random() < 1.4 * (hard - 0.4))
        self.snow = snows * (self.month in (12, 1, 2))
        self.visibility_m = float(500 / (1 + 5 * hard * rng.random() ** 3))
        self.exposure = float(np.exp(swing(0.03 + 0.35 * hard)))
        self.contrast = 1.05 + swing(0.03 + 0.3 * hard)
        self.warmth = swing(0.1 + 0.9 * hard)
        self.vignette = float(rng.uniform(0, 0.1 + 0.5 * hard))
        self.blur_px = float(rng.uniform(0, 0.2 + 0.7 * hard))
        self.noise = float(rng.uniform(0.002, 0.006 + 0.03 * hard))
        self.jpeg_quality = int(rng.integers(75, 93))
        self.passers_by = int(rng.poisson(0.5 + 6 * hard))

    def to_sun(self) -> Array:
        """The direction [3] of the sun."""
        azimuth, elevation = np.radians([self.sun_azimuth_deg, self.sun_elevation_deg])
        level = np.cos(elevation)
        return np.array([np.sin(azimuth) * level, np.cos(azimuth) * level, np.sin(elevation)])

    def sky(self) -> tuple[Array, Array]:
        """The sky's colours [3] at the zenith and at the horizon."""
        zenith = blend((96, 146, 214), (176, 182, 190), self.cloud)
        horizon = blend((206, 222, 236), (206, 208, 210), self.cloud)
        horizon = blend(horizon, (70, 58, 66), self.night)
        dusk = self.night * (1 - self.night) * 2
        return blend(zenith, (14, 18, 40), self.night), blend(horizon, (236, 150, 92), dusk)


def blend(first: ArrayLike, second: ArrayLike, share: ArrayLike) -> Array:
    """`first` where `share` is 0, `second` where it is 1."""
    start, end, part = (np.asarray(value, np.float64) for value in (first, second, share))
    return start * (1 - part) + end * part


def shadows(place: Place, conditions: Conditions) -> Thing:
    """The shadows that the buildings of the sunny side cast over the road."""
    sun, (side, near, far, height) = conditions.to_sun(), place.footprints.T
    foot = side * place.line_m
    feet = np.stack([np.stack([foot, near], -1), np.stack([foot, far], -1)], 1)
    tips = feet - (sun[:2] / sun[2] * height[:, None])[:, None]
    outline = np.concatenate([feet, tips[:, ::-1]], 1)
    outline[side < 0] = outline[side < 0, ::-1]
    thing = Thing(900.0)
    thing.add(np.pad(outline, ((0, 0), (0, 0), (0, 1))), (0, 0, 0), Material.SHADOW)
    return thing


def illuminate(quads: Quads, normals: Array, conditions: Conditions, rng: Generator) -> Array:
    """Colours [n, 3] under sun, sky and street lamps; normals [n, 3] are of unit length."""
    night, cloud, materials = conditions.night, conditions.cloud, quads.materials
    direct = 0.75 * (1 - 0.85 * cloud) * (1 - night)
    sun = direct * np.clip(normals @ conditions.to_sun(), 0, None)
    sky = (0.62 + 0.28 * cloud) * (0.85 + 0.15 * normals[:, 2]) * (1 - 0.8 * night)
    lamps = 0.4 * night * np.exp(-np.clip(quads.corners[:, 0, 2], 0, None) / 7)
    light = sun[:, None] * SUNLIGHT + sky[:, None] * SKYLIGHT + lamps[:, None] * LAMP_TINT
    colours = _weather(quads, conditions, rng) * light
    is_glass, is_lamp = materials == Material.GLASS, materials == Material.LAMP
    lit = rng.random(len(colours)) < 0.5 * night
    colours[is_glass & lit | is_lamp & (night > 0.2)] = (250, 206, 130)
    return colours


def _weather(quads: Quads, conditions: Conditions, rng: Generator) -> Array:
    """The colours [n, 3] that season and weather give to leaves, roofs, ground and glass."""
    colours, materials = quads.colours.copy(), quads.materials
    colours[materials == Material.LEAF] *= LEAF_TINTS[conditions.month - 1]
    covered = (materials == Material.ROOF) | (materials == Material.GROUND)
    patchy = conditions.snow * rng.uniform(0.7, 1, (int(covered.sum()), 1))
    colours[covered] = blend(colours[covered], SNOW_COLOUR, patchy)
    glass = materials == Material.GLASS
    colours[glass] = blend(colours[glass], conditions.sky()[1], 0.3)
    return colours


def expose(picture: Image.Image, conditions: Conditions, rng: Generator) -> Image.Image:
    """What the sensor makes of the light: blur, exposure, contrast, tint, vignette, noise."""
    if conditions.blur_px > LEAST_BLUR_PX:
        picture = picture.filter(ImageFilter.GaussianBlur(conditions.blur_px))
    values = np.asarray(picture, np.float32) / 255
    tint = np.array([1 + 0.16 * conditions.warmth, 1, 1 - 0.2 * conditions.warmth], np.float32)
    values = 0.5 + (values * (conditions.exposure * tint) - 0.5) * conditions.contrast
    rows, columns = (np.linspace(-1, 1, count, dtype=np.float32) for count in values.shape[:2])
    corner = (rows[:, None] ** 2 + columns**2) / 2
    values *= (1 - conditions.vignette * corner)[..., None]
    values += rng.standard_normal(values.shape, np.float32) * np.float32(conditions.noise)
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
