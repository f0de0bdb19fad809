"""From a street of quads to a picture: projection and painting."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.light import Conditions, blend, illuminate, shadows
from demo.scene import Array, Material, merge
from demo.street import Place, traffic

NEAR_PLANE_M = 0.3
NEAREST_LEAF_M = 3.0
THINNEST_PX = 0.3
LEAF_SHARES = [0.05, 0.05, 0.3, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.45, 0.1]  # by month


class Camera:
    """A pinhole camera: position, orientation and image size."""

    def __init__(self, place: Place, conditions: Conditions, size_px: tuple[int, int]) -> None:
        heading, pitch, roll = np.radians(
            [conditions.heading_deg, conditions.pitch_deg, conditions.roll_deg]
        )
        level = np.cos(pitch)
        ahead = np.array([np.sin(heading) * level, np.cos(heading) * level, np.sin(pitch)])
        right = np.array([np.cos(heading), -np.sin(heading), 0.0])
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        self.rotation = np.stack([*(turn @ np.stack([right, np.cross(ahead, right)])), ahead])
        self.centre_m = place.bend(np.array(conditions.position_m))
        self.size_px, self.middle_px = size_px, np.asarray(size_px) / 2
        half_view = np.radians(conditions.field_of_view_deg) / 2
        self.focal_px = float(size_px[0] / 2 / np.tan(half_view))
        self.horizon_px = size_px[1] / 2 + self.focal_px * np.tan(pitch)

    def see(self, points: Array) -> Array:
        """Points [..., 3] of the street as the camera's right, down and ahead, in metres."""
        return (points - self.centre_m) @ self.rotation.T

    def outlines(self, seen: Array) -> list[tuple[int, list[float]]]:
        """Indices and outlines x, y, x, y, … in pixels of the quads [n, 4, 3] that are in sight."""
        ahead = seen[..., 2] >= NEAR_PLANE_M
        whole = np.flatnonzero(ahead.all(1))
        pixels = self._project(seen[whole])
        worth = self._is_in_picture(pixels) & _is_thick(pixels)
        kept = whole[worth].tolist(), pixels[worth].reshape(-1, 8).tolist()
        outlines = dict(zip(*kept, strict=True))
        for cut in np.flatnonzero(ahead.any(1) & ~ahead.all(1)):
            pixels = self._project(_clip(seen[cut]))
            if self._is_in_picture(pixels):
                outlines[int(cut)] = pixels.ravel().tolist()
        return sorted(outlines.items())

    def _project(self, seen: Array) -> Array:
        return seen[..., :2] / seen[..., 2:] * self.focal_px + self.middle_px

    def _is_in_picture(self, pixels: Array) -> NDArray[np.bool_]:
        """Whether polygons [..., k, 2] meet the picture."""
        return ((pixels.max(-2) > 0) & (pixels.min(-2) < self.size_px)).all(-1)


def _is_thick(pixels: Array) -> NDArray[np.bool_]:
    """Which quads [n, 4, 2] are thicker than a hair."""
    across, along = pixels[:, 2] - pixels[:, 0], pixels[:, 3] - pixels[:, 1]
    area = np.abs(across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]) / 2
    return area > THINNEST_PX * np.maximum(np.ptp(pixels, axis=1).max(-1), 1)


def _clip(polygon: Array) -> Array:
    """The part of a polygon [k, 3] before the camera's near plane, by Sutherland and Hodgman."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if start[2] >= NEAR_PLANE_M:
            kept.append(start)
        if (start[2] >= NEAR_PLANE_M) != (end[2] >= NEAR_PLANE_M):
            kept.append(start + (end - start) * (NEAR_PLANE_M - start[2]) / (end[2] - start[2]))
    return np.array(kept)


def paint(
    place: Place, conditions: Conditions, size_px: tuple[int, int], rng: Generator
) -> Image.Image:
    """The scene as the camera sees it, from the farthest object to the nearest.

    Args:
        place: The street.
        conditions: What the photo is taken under.
        size_px: Width and height.
        rng: Draws passers-by, leaves, lit windows, patches of snow and clouds, in that order.
    """
    camera, horizon = Camera(place, conditions, size_px), conditions.sky()[1]
    passers_by = traffic(rng, place, conditions.passers_by, conditions.position_m[1])
    quads = merge([*place.things, shadows(place, conditions), *passers_by])
    corners = place.bend(quads.corners)
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    seen = camera.see(corners)
    facing = ((corners[:, 0] - camera.centre_m) * normals).sum(-1) < 0
    # Bare trees keep few leaves, and none hangs right before the lens.
    is_there = rng.random(len(seen)) < LEAF_SHARES[conditions.month - 1]
    is_there &= seen[:, :, 2].min(1) > NEAREST_LEAF_M
    kept = np.flatnonzero(facing & (is_there | (quads.materials != Material.LEAF)))
    colours, seen = illuminate(quads, normals, conditions, rng)[kept], seen[kept]
    haze = 1 - np.exp(-np.clip(seen[:, 0, 2:], 0, None) / conditions.visibility_m)
    colours = np.clip(blend(colours, horizon, haze), 0, 255).astype(int)
    fills = [tuple(colour) for colour in colours.tolist()]
    is_shadow = quads.materials[kept] == Material.SHADOW
    canvas = _paint_sky(conditions, camera, rng)
    # Blending every polygon would take twice the time of filling it.
    solid, glaze = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas, "RGBA")
    shade = (10, 12, 30, int(115 * (1 - conditions.cloud) * (1 - conditions.night)))
    for index, outline in camera.outlines(seen):
        if is_shadow[index]:
            glaze.polygon(outline, fill=shade)
        else:
            solid.polygon(outline, fill=fills[index])
    return canvas


def _paint_sky(conditions: Conditions, camera: Camera, rng: Generator) -> Image.Image:
    """The sky's gradient down to the horizon, with clouds."""
    zenith, horizon = conditions.sky()
    rise = np.linspace(0, camera.size_px[1], 16) / max(camera.horizon_px, 1)
    gradient = blend(zenith, horizon, np.clip(rise, 0, 1)[:, None, None])
    clouds = np.clip(rng.normal(0, 1, (16, 10, 1)) * 0.35 + conditions.cloud - 0.3, 0, 0.5)
    sky = Image.fromarray(blend(gradient, horizon, clouds).astype(np.uint8))
    return sky.resize(camera.size_px, Image.Resampling.BILINEAR)
