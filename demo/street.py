"""What stands where in one generated street, in metres; it follows from (seed, place) alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from demo import palette
from demo.buildings import Building
from demo.palette import GLASS, IRON, PAINT_WHITE, PAINTS, STONE
from demo.scene import GROUND, Array, Material, Plane, Thing, pick, vary

START_M, END_M = -14.0, 105.0


@dataclass(frozen=True)
class Place:
    """One street: its things and the measures that a camera and the light need.

    Attributes:
        things: all that stands there.
        kerb_m: from the middle of the road to the kerb.
        line_m: from the middle of the road to the facades.
        bend_per_m: how the street curves: it is displaced to the right by bend_per_m * y².
        slope: metres up a metre forward.
        footprints: [n, 4] side, near end, far end and height of the buildings, for their shadows.
    """

    things: list[Thing]
    kerb_m: float
    line_m: float
    bend_per_m: float
    slope: float
    footprints: Array

    def bend(self, points: Array) -> Array:
        """Points [..., 3] of the straight, level street where its bend and slope put them."""
        y = np.minimum(points[..., 1], 120.0)
        return points + np.stack([self.bend_per_m * y**2, np.zeros_like(y), self.slope * y], -1)


@lru_cache(maxsize=4)  # a place takes longer to build than a small view of it to paint
def build_place(seed: int, place: int) -> Place:
    """The street of one place; a pure function of its arguments."""
    rng = np.random.default_rng([seed, place, 1])
    kerb, pavement = rng.uniform(3.0, 5.5), rng.uniform(2.0, 4.2)
    line = kerb + pavement
    buildings = _row(rng, -1, line) + _row(rng, 1, line)
    towers = [_tower(rng) for _ in range(rng.integers(0, 3))]
    things = [_ground(rng, kerb, line), _skyline(rng), *towers, *buildings]
    for side in (-1, 1):
        if rng.random() < 0.55:
            spots = np.arange(rng.uniform(4, 14), 90, rng.uniform(8, 22))
            things += [_tree(rng, side * (kerb + 0.7), y) for y in spots if rng.random() < 0.8]
        if rng.random() < 0.6:
            height, spots = (
                rng.uniform(4.5, 8),
                np.arange(rng.uniform(3, 15), 90, rng.uniform(14, 28)),
            )
            things += [_lamp(side * (kerb + 0.4), y, height) for y in spots]
    bend, slope = rng.normal(0, 0.0007), rng.normal(0, 0.015)
    footprints = np.array([building.footprint for building in buildings])
    return Place(things, kerb, line, bend, slope, footprints)


def _row(rng: Generator, side: int, line_m: float) -> list[Building]:
    """The buildings of one side, with a side street here and there."""
    buildings, near = [], START_M + rng.uniform(0, 4)
    while near < END_M:
        far = near + rng.uniform(5.5, 15)
        buildings.append(Building(rng, side, near, far, line_m + rng.choice([0, 0, 0, 0.6])))
        near = far + rng.choice([0, 0, 0, 0, 1.5, 7.0])
    return buildings


def _tree(rng: Generator, x: float, y: float) -> Thing:
    """A tree: trunk, boughs and a crown of leaf clusters, which face down the street."""
    thing, height, spread = Thing(y), rng.uniform(4, 9), rng.uniform(1.2, 2.4)
    thing.add_box((x - 0.14, y, 0), (0.28, 0.28, height * 0.65), palette.TRUNK)
    reach = np.array([spread * 0.55, spread * 0.45, height * 0.14])
    tips = (x, y, height * 0.85) + reach * rng.normal(0, 1, (14, 3))
    forks = np.stack([np.full(14, x), np.full(14, y), rng.uniform(0.4, 0.65, 14) * height], -1)
    across = np.array([0.1, 0.0, 0.0])
    thing.add(np.stack([forks, forks + across, tips + across / 2, tips], 1), palette.TRUNK)
    count = 130
    centres = (x, y, height * 0.8) + reach * rng.normal(0, 1, (count, 1, 3))
    angles = rng.uniform(0, 0.8, (count, 4)) + np.arange(4) * np.pi / 2
    ring = np.stack([np.cos(angles), np.zeros((count, 4)), np.sin(angles)], -1)
    is_top = centres[:, 0, 2:] > height * 0.8
    shades = vary(rng, palette.LEAF, count, 0.25) * (0.75 + 0.5 * is_top)
    thing.add(centres + ring * rng.uniform(0.14, 0.42, (count, 1, 1)), shades, Material.LEAF)
    return thing


def _lamp(x: float, y: float, height_m: float) -> Thing:
    """A lamp post at the kerb; its arm reaches over the road."""
    thing, end = Thing(y), x - np.sign(x) * 1.2
    thing.add_box((x - 0.07, y, 0), (0.14, 0.14, height_m), IRON)
    thing.add_box((min(x, end), y, height_m), (1.2, 0.1, 0.1), IRON)
    corner = (end - 0.3, y - 0.1, height_m - 0.12)
    thing.add_box(corner, (0.6, 0.3, 0.16), palette.LAMPLIGHT, Material.LAMP)
    return thing


def _skyline(rng: Generator) -> Thing:
    """The roofs of the town behind, which close the street and its side streets."""
    thing, count = Thing(200.0), 36
    left = np.linspace(-160, 160, count) + rng.uniform(-3, 3, count)
    width, height = rng.uniform(8, 16, count), rng.uniform(14, 30, count)
    blocks = Plane((0, 200, -8)).panels(left, 0, width, height)
    thing.add(blocks, vary(rng, (140, 140, 146), count, 0.12))
    return thing


def _tower(rng: Generator) -> Thing:
    """A landmark of stacked tiers and a spire, which shows above the street's end."""
    thing, x, colour = Thing(150.0), rng.uniform(-28, 28), pick(rng, STONE + palette.BRICK)
    width, base = rng.uniform(6, 15), 0.0
    for _ in range(rng.integers(1, 4)):
        height, front = rng.uniform(10, 32), Plane((x - width / 2, 150, base))
        thing.add(front.panels(0, 0, width, height), colour)
        rows = np.arange(2, height - 2, rng.uniform(3, 6))
        slits, rows = np.meshgrid(np.arange(1, width - 1, 2.2), rows)
        thing.add(front.panels(slits.ravel(), rows.ravel(), 1, 1.8), GLASS, Material.GLASS)
        base, width = base + height, width * rng.uniform(0.5, 0.85)
    tip = base + rng.uniform(0, 3) * width
    spire = Plane((x, 150, 0)).points([-width / 2, width / 2, 0, 0], [base, base, tip, tip])
    thing.add(spire, pick(rng, palette.ROOFS))
    return thing


def _ground(rng: Generator, kerb_m: float, line_m: float) -> Thing:
    """Road, pavements, mended patches, dashes along the middle, and zebra crossings."""
    thing, start = Thing(1000.0), np.arange(START_M, 200, 4.0)  # short enough to bend

    def cover(colour: ArrayLike, *panels: ArrayLike) -> None:
        thing.add(GROUND.panels(*panels), colour, Material.GROUND)

    cover(palette.SOIL, -200.0, start, 400.0, 4.0)
    cover(vary(rng, palette.PAVEMENT, len(start), 0.03), -line_m, start, 2 * line_m, 4.0)
    cover(palette.KERB, -kerb_m - 0.15, start, 2 * (kerb_m + 0.15), 4.0)
    cover(pick(rng, palette.ASPHALTS), -kerb_m, start, 2 * kerb_m, 4.0)
    corners = rng.uniform(-kerb_m, kerb_m - 1.5, 50), rng.uniform(-10, 60, 50)
    patches = *corners, rng.uniform(0.3, 1.5, 50), rng.uniform(0.3, 4, 50)
    cover(vary(rng, palette.ASPHALTS[0], 50, 0.12), *patches)
    if rng.random() < 0.6:
        cover(PAINT_WHITE, -0.07, np.arange(-12, 90, rng.uniform(3, 7)), 0.14, 2.0)
    for crossing in rng.uniform(4, 45, rng.integers(0, 3)):
        cover(PAINT_WHITE, np.arange(-kerb_m + 0.3, kerb_m - 0.5, 1.0), crossing, 0.5, 3.0)
    return thing


def traffic(rng: Generator, place: Place, count: int, camera_y_m: float) -> list[Thing]:
    """Cars, vans and walkers in front of the camera, each somewhere else in each view."""
    things = []
    for _ in range(count):
        side, y = rng.choice([-1, 1]), camera_y_m + rng.uniform(6, 40)
        if rng.random() < 0.6:
            things.append(_car(rng, side * rng.uniform(0.35, 0.8) * place.kerb_m, y))
        else:
            things.append(_walker(rng, side * rng.uniform(place.kerb_m, place.line_m - 0.5), y))
    return things


def _car(rng: Generator, x: float, y: float) -> Thing:
    thing, paint, van = Thing(y), pick(rng, PAINTS + STONE), rng.random() < 0.25
    thing.add_box((x - 0.85, y, 0.05), (1.7, 4.0, 0.5), palette.TYRE)
    thing.add_box((x - 0.9, y, 0.35), (1.8, 4.2, 1.9 if van else 0.6), paint)
    back = Plane((x - 0.75, y, 0.95))
    if not van:
        thing.add_box((x - 0.78, y + 0.5, 0.95), (1.56, 2.4, 0.55), GLASS, Material.GLASS)
        thing.add_box((x - 0.78, y + 0.5, 1.5), (1.56, 2.4, 0.06), paint)
    thing.add(back.panels(0.1 if van else 9, 0.5, 1.3, 0.6), GLASS, Material.GLASS)
    thing.add(back.panels([-0.1, 1.3], -0.3, 0.3, 0.2), (190, 40, 36), Material.LAMP)
    thing.add(back.panels(0.5, -0.45, 0.5, 0.15), PAINT_WHITE)
    return thing


def _walker(rng: Generator, x: float, y: float) -> Thing:
    thing, step = Thing(y), rng.uniform(0.02, 0.15)
    for foot in (-0.1 - step, 0.02 + step):
        thing.add_box((x + foot, y, 0), (0.15, 0.15, 0.85), IRON)
    thing.add_box((x - 0.22, y, 0.8), (0.44, 0.25, 0.65), pick(rng, PAINTS))
    thing.add_box((x - 0.1, y, 1.48), (0.2, 0.2, 0.25), palette.SKIN)
    return thing
