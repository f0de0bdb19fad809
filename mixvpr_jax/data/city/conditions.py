"""What differs between views of one place: camera, season, weather, light, sensor, traffic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from mixvpr_jax.data.city.street import Place


@dataclass(frozen=True)
class Conditions:
    """All that differs between views of one place; metres and degrees in the frame of the street.

    `night`, `cloud`, `snow`, `warmth` and `vignette` run from 0 to 1 (warmth from -1); `noise` and
    `contrast` are in the scale of pixel values 0 … 1.
    """

    position_m: tuple[float, float, float]
    heading_deg: float
    pitch_deg: float
    roll_deg: float
    field_of_view_deg: float
    month: int
    sun_azimuth_deg: float
    sun_elevation_deg: float
    night: float
    cloud: float
    snow: float
    visibility_m: float
    exposure: float
    contrast: float
    warmth: float
    vignette: float
    blur_px: float
    noise: float
    jpeg_quality: int
    passers_by: int


def draw_conditions(rng: Generator, difficulty: float, place: Place) -> Conditions:
    """Conditions of one view; the draws keep their order, so that difficulty only scales them."""

    def swing(reach: float) -> float:
        return float(rng.uniform(-1, 1) * reach)

    hard = difficulty
    x = swing(0.3 + hard * (place.kerb_m - 0.6))
    y = swing(0.5 + 7.0 * hard)
    month = int(6.5 + swing(0.5 + 6 * hard)) % 12 + 1
    winter = month in (12, 1, 2)
    return Conditions(
        position_m=(x, y, 1.7 + rng.uniform(0, 1.0) * hard),
        heading_deg=swing(2 + 20 * hard),
        pitch_deg=4 + swing(1 + 6 * hard),
        roll_deg=swing(2.5 * hard),
        field_of_view_deg=72 + swing(2 + 16 * hard),
        month=month,
        sun_azimuth_deg=120 + swing(20 + 160 * hard),
        sun_elevation_deg=40 + swing(5 + 25 * hard),
        night=float(rng.uniform(0.3, 1)) * hard * (rng.random() < 0.35 * hard),
        cloud=float(np.clip(0.3 + swing(0.1 + 0.9 * hard), 0, 1)),
        snow=float(rng.uniform(0.5, 1)) * (rng.random() < 1.4 * (hard - 0.4)) * winter,
        visibility_m=float(500 / (1 + 5 * hard * rng.random() ** 3)),
        exposure=float(np.exp(swing(0.03 + 0.35 * hard))),
        contrast=1.05 + swing(0.03 + 0.3 * hard),
        warmth=swing(0.1 + 0.9 * hard),
        vignette=float(rng.uniform(0, 0.1 + 0.5 * hard)),
        blur_px=float(rng.uniform(0, 0.2 + 0.7 * hard)),
        noise=float(rng.uniform(0.002, 0.006 + 0.03 * hard)),
        jpeg_quality=int(rng.integers(75, 93)),
        passers_by=int(rng.poisson(0.5 + 6 * hard)),
    )
