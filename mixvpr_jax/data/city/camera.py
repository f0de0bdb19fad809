"""From a street of quads to a photo: projection, light, painting and the sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from mixvpr_jax.data.city.conditions import Conditions
from mixvpr_jax.data.city.quads import Array, Material, Quads, Thing, merge
from mixvpr_jax.data.city.street import Place, traffic

NEAR_PLANE_M = 0.3
NEAREST_LEAF_M = 3.0
THINNEST_PX = 0.3
LEAST_BLUR_PX = 0.25
SUNLIGHT, SKYLIGHT, LAMP_TINT = np.array([[1.06, 1.0, 0.86], [0.94, 0.99, 1.08], [1.2, 0.95, 0.6]])
SNOW_COLOUR = (236, 240, 246)
BARE, BUDS, GREEN = (1.0, 0.75, 0.7), (1.2, 1.3, 0.9), (1.0, 1.0, 1.0)
GOLD, RED = (2.1, 1.25, 0.6), (1.9, 0.8, 0.5)
LEAF_TINTS = [BARE, BARE, BUDS, BUDS, GREEN, GREEN, GREEN, GREEN, GREEN, GOLD, RED, BARE]
LEAF_SHARES = [0.05, 0.05, 0.3, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.45, 0.1]


def _sky_colours(conditions: Conditions) -> tuple[Array, Array]:
    """The sky's colours [3] at the zenith and at the horizon."""
    cloud, night = conditions.cloud, conditions.night
    zenith = _blend(_blend((96, 146, 214), (176, 182, 190), cloud), (14, 18, 40), night)
    horizon = _blend(_blend((206, 222, 236), (206, 208, 210), cloud), (70, 58, 66), night)
    dusk = night * (1 - night) * 2
    return zenith, _blend(horizon, (236, 150, 92), dusk)


def _blend(first: ArrayLike, second: ArrayLike, share: ArrayLike) -> Array:
    start, end, part = (np.asarray(value, np.float64) for value in (first, second, share))
    return start * (1 - part) + end * part


@dataclass(frozen=True)
class Camera:
    """A pin-hole camera: its centre [3], and its rotation [3, 3] to right, down and ahead."""

    centre_m: Array
    rotation: Array
    focal_px: float

    def see(self, points: Array) -> Array:
        """Points [..., 3] of the street as the camera's right, down and ahead, in metres."""
        return (points - self.centre_m) @ self.rotation.T


def _camera(conditions: Conditions, place: Place, width_px: int) -> Camera:
    heading, pitch, roll = np.radians(
        [conditions.heading_deg, conditions.pitch_deg, conditions.roll_deg]
    )
    ahead = np.array(
        [np.sin(heading) * np.cos(pitch), np.cos(heading) * np.cos(pitch), np.sin(pitch)]
    )
    right = np.array([np.cos(heading), -np.sin(heading), 0.0])
    down = np.cross(ahead, right)
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    rotation = np.concatenate([turn @ np.stack([right, down]), ahead[None]])
    focal = width_px / 2 / np.tan(np.radians(conditions.field_of_view_deg) / 2)
    return Camera(_bend(np.array(conditions.position_m), place), rotation, float(focal))


def _bend(points: Array, place: Place) -> Array:
    """Points [..., 3] of the straight, level street where the street's bend and slope put them."""
    y = np.minimum(points[..., 1], 120.0)
    shift = np.stack([place.bend_per_m * y**2, np.zeros_like(y), place.slope * y], -1)
    return points + shift


def _sun_direction(conditions: Conditions) -> Array:
    azimuth, elevation = np.radians([conditions.sun_azimuth_deg, conditions.sun_elevation_deg])
    level = np.cos(elevation)
    return np.array([np.sin(azimuth) * level, np.cos(azimuth) * level, np.sin(elevation)])


def _shadows(place: Place, conditions: Conditions) -> Quads:
    """The shadows that the buildings of the sunny side cast over the road."""
    sun, (side, near, far, height) = _sun_direction(conditions), place.footprints.T
    foot = side * place.line_m
    feet = np.stack([np.stack([foot, near], -1), np.stack([foot, far], -1)], 1)
    tips = feet - (sun[:2] / sun[2] * height[:, None])[:, None]
    outline = np.concatenate([feet, tips[:, ::-1]], 1)
    outline[side < 0] = outline[side < 0, ::-1]
    thing = Thing(900.0)
    thing.add(np.pad(outline, ((0, 0), (0, 0), (0, 1))), (0, 0, 0), Material.SHADOW)
    return thing.quads()


def _tint(quads: Quads, conditions: Conditions, rng: Generator) -> Array:
    """The colours [n, 3] that season and weather give to leaves, roofs, ground and glass."""
    colours, materials = quads.colours.copy(), quads.materials
    leaves = materials == Material.LEAF
    colours[leaves] *= np.asarray(LEAF_TINTS[conditions.month - 1])
    covered = (materials == Material.ROOF) | (materials == Material.GROUND)
    patchy = conditions.snow * rng.uniform(0.7, 1, (int(covered.sum()), 1))
    colours[covered] = _blend(colours[covered], SNOW_COLOUR, patchy)
    glass = np.flatnonzero(materials == Material.GLASS)
    colours[glass] = _blend(colours[glass], _sky_colours(conditions)[1], 0.3)
    return colours


def _illuminate(quads: Quads, normals: Array, conditions: Conditions, rng: Generator) -> Array:
    """Colours [n, 3] under sun, sky and street lamps; normals [n, 3] are of unit length."""
    night, materials = conditions.night, quads.materials
    direct = 0.75 * (1 - 0.85 * conditions.cloud) * (1 - night)
    sun = direct * np.clip(normals @ _sun_direction(conditions), 0, None)
    sky = (0.62 + 0.28 * conditions.cloud) * (0.85 + 0.15 * normals[:, 2]) * (1 - 0.8 * night)
    lamps = 0.4 * night * np.exp(-np.clip(quads.corners[:, 0, 2], 0, None) / 7)
    light = sun[:, None] * SUNLIGHT + sky[:, None] * SKYLIGHT + lamps[:, None] * LAMP_TINT
    colours = _tint(quads, conditions, rng) * light
    lit = rng.random(len(colours)) < 0.5 * night
    glowing = (materials == Material.GLASS) & lit | (materials == Material.LAMP) & (night > 0.2)
    colours[glowing] = (250, 206, 130)
    return colours


def _unit_normals(corners: Array) -> Array:
    (ax, ay, az), (bx, by, bz) = (
        (corners[:, 2] - corners[:, 0]).T,
        (corners[:, 3] - corners[:, 1]).T,
    )
    normals = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)


def _clip(polygon: Array) -> Array:
    """The part of a polygon [k, 3] before the camera's near plane, by Sutherland and Hodgman."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if start[2] >= NEAR_PLANE_M:
            kept.append(start)
        if (start[2] >= NEAR_PLANE_M) != (end[2] >= NEAR_PLANE_M):
            kept.append(start + (end - start) * (NEAR_PLANE_M - start[2]) / (end[2] - start[2]))
    return np.array(kept)


def _is_worth_painting(pixels: Array, size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Which polygons [n, k, 2] meet the picture and are thicker than a hair."""
    low, high = pixels.min(1), pixels.max(1)
    inside = (high > 0).all(-1) & (low < size_px).all(-1)
    across, along = pixels[:, 2] - pixels[:, 0], pixels[:, 3] - pixels[:, 1]
    area = np.abs(across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]) / 2
    return inside & (area > THINNEST_PX * np.maximum((high - low).max(-1), 1))


def _outlines(
    seen: Array, camera: Camera, size_px: tuple[int, int]
) -> list[tuple[int, list[float]]]:
    """Indices and pixel outlines x, y, x, y, … of the quads in sight of camera points [n, 4, 3]."""
    middle = np.asarray(size_px) / 2
    ahead = seen[..., 2]
    whole = np.flatnonzero((ahead >= NEAR_PLANE_M).all(1))
    pixels = seen[whole, :, :2] / seen[whole, :, 2:] * camera.focal_px + middle
    worth = _is_worth_painting(pixels, size_px)
    outlines = dict(zip(whole[worth].tolist(), pixels[worth].reshape(-1, 8).tolist(), strict=True))
    for cut in np.flatnonzero((ahead < NEAR_PLANE_M).any(1) & (ahead > NEAR_PLANE_M).any(1)):
        part = _clip(seen[cut])
        pixels = part[:, :2] / part[:, 2:] * camera.focal_px + middle
        if (pixels.max(0) > 0).all() and (pixels.min(0) < size_px).all():
            outlines[int(cut)] = pixels.ravel().tolist()
    return sorted(outlines.items())


def _paint_sky(
    conditions: Conditions, camera: Camera, size_px: tuple[int, int], rng: Generator
) -> Image.Image:
    """The sky's gradient down to the horizon, with clouds."""
    width, height = size_px
    horizon_px = height / 2 + camera.focal_px * np.tan(np.radians(conditions.pitch_deg))
    zenith, horizon = _sky_colours(conditions)
    rise = np.clip(np.linspace(0, height, 16) / max(horizon_px, 1), 0, 1)[:, None, None]
    clouds = np.clip(rng.normal(0, 1, (16, 10, 1)) * 0.35 + conditions.cloud - 0.3, 0, 0.5)
    colours = _blend(np.broadcast_to(_blend(zenith, horizon, rise), (16, 10, 3)), horizon, clouds)
    return Image.fromarray(colours.astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )


def paint(
    place: Place, conditions: Conditions, size_px: tuple[int, int], rng: Generator
) -> Image.Image:
    """The scene as the camera sees it, from the farthest object to the nearest."""
    camera = _camera(conditions, place, size_px[0])
    passers_by = traffic(rng, place, conditions.passers_by, conditions.position_m[1])
    quads = merge([place.quads, _shadows(place, conditions), *(t.quads() for t in passers_by)])
    corners = _bend(quads.corners, place)
    normals, seen = _unit_normals(corners), camera.see(corners)
    facing = ((corners[:, 0] - camera.centre_m) * normals).sum(-1) < 0
    kept = np.flatnonzero(facing & _is_there(quads.materials, seen, conditions, rng))
    colours = _illuminate(quads, normals, conditions, rng)[kept]
    haze = 1 - np.exp(-np.clip(seen[kept, 0, 2:], 0, None) / conditions.visibility_m)
    colours = _blend(colours, _sky_colours(conditions)[1], haze)
    canvas = _paint_sky(conditions, camera, size_px, rng)
    outlines = _outlines(seen[kept], camera, size_px)
    _fill(canvas, outlines, colours, quads.materials[kept] == Material.SHADOW, conditions)
    return canvas


def _is_there(
    materials: NDArray[np.int64], seen: Array, conditions: Conditions, rng: Generator
) -> NDArray[np.bool_]:
    """Which quads are there: bare trees keep few leaves, and none hangs right before the lens."""
    kept = rng.random(len(materials)) < LEAF_SHARES[conditions.month - 1]
    return (materials != Material.LEAF) | (kept & (seen[:, :, 2].min(1) > NEAREST_LEAF_M))


def _fill(
    canvas: Image.Image,
    outlines: list[tuple[int, list[float]]],
    colours: Array,
    is_shadow: NDArray[np.bool_],
    conditions: Conditions,
) -> None:
    """Paints the outlines [k] in turn; only shadows let through what lies below."""
    fills = [tuple(colour) for colour in np.clip(colours, 0, 255).astype(int).tolist()]
    # Blending every polygon would take twice the time of filling it.
    solid, glaze = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
    sunshine = (1 - conditions.cloud) * (1 - conditions.night)
    shade = (10, 12, 30, int(115 * sunshine))
    for index, outline in outlines:
        if is_shadow[index]:
            glaze.polygon(outline, fill=shade)
        else:
            solid.polygon(outline, fill=fills[index])


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
