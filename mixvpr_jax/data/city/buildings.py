"""Houses and shops along a street, each drawn by lot: walls, windows, signs and roofs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from mixvpr_jax.data.city.palette import (
    BRICK,
    GLASS,
    MATERIALS,
    PAINT_WHITE,
    PAINTS,
    ROOFS,
    TIMBER,
    TRIMS,
)
from mixvpr_jax.data.city.quads import Array, Material, Plane, Point, Thing, pick, vary

BUILDING_DEPTH_M = 9.0


@dataclass(frozen=True)
class Building:
    """The measures and colours of one building; lengths in metres."""

    wall: Plane
    width_m: float
    ground_m: float
    floor_m: float
    floors: int
    material: str
    colour: Array
    trim: Array
    roof: Array

    @property
    def height_m(self) -> float:
        """From the pavement to the eaves."""
        return self.ground_m + self.floor_m * self.floors


def build_house(
    rng: Generator, side: int, near_m: float, far_m: float, line_m: float
) -> tuple[Thing, float]:
    """A building on one side (-1 left, 1 right) and its height in metres."""
    material = str(rng.choice(list(MATERIALS)))
    wall = Plane((side * line_m, far_m if side > 0 else near_m, 0.0), (0.0, -side, 0.0))
    building = Building(
        wall,
        width_m=far_m - near_m,
        ground_m=rng.uniform(3.0, 4.4),
        floor_m=rng.uniform(2.6, 3.5),
        floors=int(rng.choice([1, 1, 2, 2, 3, 3, 4, 5])),
        material=material,
        colour=pick(rng, MATERIALS[material]),
        trim=pick(rng, TRIMS),
        roof=pick(rng, ROOFS),
    )
    thing = Thing(far_m)
    _add_roof(thing, rng, building, side)
    _add_end_wall(thing, rng, building, side, near_m, line_m)
    thing.add(wall.panels(0, 0, building.width_m, building.height_m), building.colour)
    _add_texture(thing, rng, building)
    _add_windows(thing, rng, building)
    _add_ground_floor(thing, rng, building)
    return thing, building.height_m


def _add_end_wall(
    thing: Thing, rng: Generator, building: Building, side: int, near_m: float, line_m: float
) -> None:
    """The wall that shows where the next building is lower or a side street opens."""
    end = Plane((line_m if side > 0 else -line_m - BUILDING_DEPTH_M, near_m, 0.0))
    height = building.height_m
    thing.add(end.panels(0, 0, BUILDING_DEPTH_M, height), building.colour * 0.93)
    if rng.random() < 0.4:
        advert = end.panels(1.5, height * 0.45, BUILDING_DEPTH_M - 3, height * 0.4)
        thing.add(advert, pick(rng, PAINTS))
        _add_lettering(thing, rng, end, 2.2, height * 0.6, BUILDING_DEPTH_M - 4.4, 1.2)
    else:
        up = building.ground_m + building.floor_m * np.arange(building.floors)
        left = np.repeat([2.0, 5.6], len(up))
        thing.add(end.panels(left, np.tile(up + 0.6, 2), 1.0, 1.5), GLASS, Material.GLASS)


def _add_texture(thing: Thing, rng: Generator, building: Building) -> None:
    """What the wall is made of: courses and odd bricks, stones, beams, or stains."""
    wall, width, height = building.wall, building.width_m, building.height_m
    if building.material in ("brick", "stone"):
        course = 0.3 if building.material == "brick" else 0.6
        thing.add(
            wall.panels(0, np.arange(course, height, course), width, 0.05), building.colour * 0.84
        )
        count = int(width * height * (1.0 if course < 0.5 else 0.6))
        rows = rng.integers(0, int(height / course), count) * course + 0.05
        bricks = wall.panels(rng.uniform(0, width - 1, count), rows, course * 1.8, course - 0.05)
        thing.add(bricks, vary(rng, building.colour, count, 0.16))
    elif building.material == "timber":
        beams = np.linspace(0, width - 0.22, int(width / rng.uniform(1.1, 2.2)) + 2)
        thing.add(wall.panels(beams, building.ground_m, 0.22, height - building.ground_m), TIMBER)
        storeys = building.ground_m + building.floor_m * np.arange(building.floors + 1)
        thing.add(wall.panels(0, storeys - 0.15, width, 0.3), TIMBER)
    else:
        count = 14
        stains = wall.panels(
            rng.uniform(0, width - 2, count),
            rng.uniform(0, height * 0.8, count),
            rng.uniform(0.3, 2, count),
            rng.uniform(0.3, 2, count),
        )
        thing.add(stains, vary(rng, building.colour, count, 0.06))


def _add_windows(thing: Thing, rng: Generator, building: Building) -> None:
    """A grid of windows; the building decides their shape and what surrounds them."""
    wall, width = building.wall, rng.uniform(0.8, 1.5)
    height = rng.uniform(0.5, 0.68) * building.floor_m
    columns = max(2, int(building.width_m / (width + rng.uniform(0.7, 1.9))))
    pitch = building.width_m / columns
    left, up = np.meshgrid(
        (np.arange(columns) + 0.5) * pitch - width / 2,
        building.ground_m + building.floor_m * (np.arange(building.floors) + 0.22),
    )
    left, up = left.ravel(), up.ravel()
    thing.add(wall.panels(left - 0.14, up - 0.14, width + 0.28, height + 0.28), building.trim)
    glass = vary(rng, GLASS, len(left), 0.25)
    thing.add(wall.panels(left, up, width, height), glass, Material.GLASS)
    for bar in np.linspace(0, width, int(rng.integers(2, 5)))[1:-1]:
        thing.add(wall.panels(left + bar - 0.04, up, 0.08, height), building.trim)
    if rng.random() < 0.6:
        thing.add(wall.panels(left, up + height * 0.65, width, 0.08), building.trim)
    _add_surrounds(thing, rng, building, (left, up, width, height), has_room=pitch > width * 1.9)


def _add_surrounds(
    thing: Thing,
    rng: Generator,
    building: Building,
    windows: tuple[Array, Array, float, float],
    *,
    has_room: bool,
) -> None:
    """Shutters where there is room between the windows, then balconies or sills."""
    wall, (left, up, width, height) = building.wall, windows
    if has_room and rng.random() < 0.35:
        shutter, paint = width * 0.45, pick(rng, PAINTS)
        sides = np.concatenate([left - shutter - 0.1, left + width + 0.1])
        thing.add(wall.panels(sides, np.tile(up, 2), shutter, height), paint)
    if rng.random() < 0.3:
        thing.add(wall.panels(left - 0.3, up - 0.3, width + 0.6, 0.9, 0.5), building.trim * 0.75)
    else:
        thing.add(wall.panels(left - 0.2, up - 0.25, width + 0.4, 0.15, 0.1), building.trim * 0.9)


def _add_lettering(
    thing: Thing,
    rng: Generator,
    plane: Plane,
    left_m: float,
    bottom_m: float,
    width_m: float,
    height_m: float,
) -> None:
    """Blocks and strokes that look like the letters of a sign."""
    count = max(3, int(width_m / height_m * 1.3))
    pitch = width_m / count
    left = left_m + pitch * np.flatnonzero(rng.random(count) < 0.85)
    colour = PAINT_WHITE if rng.random() < 0.7 else PAINTS[3]
    for stroke in range(3):
        low, high = np.sort(rng.uniform(0, 1, (2, len(left))), axis=0)
        shift, slim = rng.uniform(0, 0.45, len(left)) * pitch, 0.16 + 0.2 * (stroke == 0)
        rise = np.where(stroke == 0, 0.0, low) * height_m
        tall = np.where(stroke == 0, 1.0, np.minimum(high - low, 0.3)) * height_m
        thing.add(plane.panels(left + shift, bottom_m + rise, pitch * slim, tall, 0.12), colour)


def _add_ground_floor(thing: Thing, rng: Generator, building: Building) -> None:
    """A shop or the front of a house, its door, and perhaps a sign that hangs over the pavement."""
    wall, door = building.wall, rng.uniform(0.6, building.width_m - 1.9)
    if rng.random() < 0.55:
        _add_shop(thing, rng, building)
    else:
        _add_house_front(thing, rng, building, door)
    thing.add(wall.panels(door - 0.15, 0, 1.4, 2.55), building.trim)
    thing.add(wall.panels(door, 0, 1.1, 2.4), pick(rng, PAINTS) * 0.8)
    if rng.random() < 0.35:
        _add_hanging_sign(thing, rng, building)


def _add_shop(thing: Thing, rng: Generator, building: Building) -> None:
    wall, width, height = building.wall, building.width_m, building.ground_m
    thing.add(wall.panels(0.25, 0, width - 0.5, height - 0.2), pick(rng, PAINTS))
    edges = np.linspace(0.5, width - 0.5, int(width / rng.uniform(1.6, 3)) + 2)
    panes = wall.panels(edges[:-1] + 0.1, 0.6, np.diff(edges) - 0.2, height - 1.7)
    thing.add(panes, GLASS, Material.GLASS)
    left = width * rng.uniform(0.08, 0.4)
    _add_lettering(thing, rng, wall, left, height - 0.85, width * 0.5, 0.5)
    if rng.random() < 0.5:
        _add_awning(thing, rng, building)


def _add_house_front(thing: Thing, rng: Generator, building: Building, door_m: float) -> None:
    wall, width = building.wall, building.width_m
    windows = np.arange(0.8, width - 1.4, rng.uniform(1.9, 3))
    windows = windows[np.abs(windows - door_m) > 1.5]
    thing.add(wall.panels(windows - 0.12, 0.9, 1.24, 1.7), building.trim)
    thing.add(wall.panels(windows, 1.0, 1.0, 1.5), GLASS, Material.GLASS)
    thing.add(wall.panels(0, 0, width, 0.5), building.colour * 0.7)


def _add_hanging_sign(thing: Thing, rng: Generator, building: Building) -> None:
    """A board across the pavement, which faces whoever comes down the street."""
    across = rng.uniform(1, building.width_m - 1)
    x, y, z = building.wall.points(across, building.ground_m + 0.4, 0.2)
    board = Plane((min(x, x - 1.1 * np.sign(x)), y, z))
    thing.add(board.panels(0, 0, 1.0, 0.9), pick(rng, PAINTS))
    _add_lettering(thing, rng, board, 0.15, 0.25, 0.7, 0.4)


def _add_awning(thing: Thing, rng: Generator, building: Building) -> None:
    """Stripes of cloth that slope from the wall out over the pavement."""
    width, top = building.width_m, building.ground_m - 0.9
    slope = Plane(
        building.wall.points(0, top - 0.8, 1.3),
        building.wall.right,
        building.wall.points(0, 0.8, -1.3) - building.wall.origin,
    )
    stripes = np.arange(0.3, width - 0.6, 0.6)
    colours = np.where(np.arange(len(stripes))[:, None] % 2, PAINT_WHITE, pick(rng, PAINTS))
    thing.add(slope.panels(stripes, 0, 0.6, 1.0), colours)


def _add_roof(thing: Thing, rng: Generator, building: Building, side: int) -> None:
    """A flat roof with a cornice, a slope with tiles and dormers, or a gable; then chimneys."""
    wall, width, top = building.wall, building.width_m, building.height_m
    kind = rng.choice(["flat", "slope", "slope", "mansard", "gable"])
    rise, back = (rng.uniform(2, 4.2), 4.5) if kind != "mansard" else (2.8, 1.0)
    _add_chimneys(thing, rng, building, top + (0 if kind == "flat" else rise * 0.6))
    if kind == "flat":
        cornice = wall.panels(-0.15, top - 0.3, width + 0.3, rng.uniform(0.5, 1.2), 0.35)
        thing.add(cornice, building.trim * 0.95)
    elif kind == "gable":
        _add_gable(thing, building, side)
    else:
        slope = Plane(
            wall.points(0, top, 0.3), wall.right, wall.points(0, rise, -back) - wall.origin
        )
        tiles = slope.panels(0, np.arange(0.1, 1, 0.1), width, 0.02)
        thing.add(slope.panels(0, 0, width, 1), building.roof, Material.ROOF)
        thing.add(tiles, building.roof * 0.8, Material.ROOF)
        _add_dormers(thing, rng, building)


def _add_gable(thing: Thing, building: Building, side: int) -> None:
    """A gable over the facade and the one slope of the roof behind it that faces the camera."""
    wall, width, top = building.wall, building.width_m, building.height_m
    peak = top + width * 0.45
    gable = wall.points([0, width, width / 2, width / 2], [top, top, peak, peak])
    ridge = wall.points(width / 2, peak, -BUILDING_DEPTH_M)
    back, front = wall.points(width if side > 0 else 0, top, [-BUILDING_DEPTH_M, 0])
    slope = [back, front, gable[2], ridge] if side < 0 else [front, back, ridge, gable[2]]
    thing.add(np.stack(slope), building.roof, Material.ROOF)
    thing.add(gable, building.colour)
    thing.add(wall.panels(width / 2 - 0.5, top + 0.5, 1.0, 1.3), GLASS, Material.GLASS)


def _add_dormers(thing: Thing, rng: Generator, building: Building) -> None:
    wall, up = building.wall, building.height_m + 0.3
    left = np.arange(rng.uniform(0.5, 2), building.width_m - 1.5, rng.uniform(2.5, 5))
    for across in left:
        _add_box_on(thing, wall, (across, up, -0.3), (1.5, 1.8, 2.5), building.trim)
    thing.add(wall.panels(left + 0.25, up + 0.3, 1.0, 1.2, -0.25), GLASS, Material.GLASS)


def _add_box_on(thing: Thing, wall: Plane, foot_m: Point, size_m: Point, colour: ArrayLike) -> None:
    """Adds a box from its foot, across, up and out, and its size across, up and back."""
    ends = np.array([foot_m, np.add(foot_m, size_m * np.array([1, 1, -1]))])
    low, high = np.sort(wall.points(*ends.T), axis=0)
    thing.add_box(low, high - low, colour)


def _add_chimneys(thing: Thing, rng: Generator, building: Building, base_m: float) -> None:
    for across in rng.uniform(0.5, building.width_m - 1, rng.integers(0, 4)):
        size = (0.9, rng.uniform(2.8, 4.6), 0.7)
        _add_box_on(thing, building.wall, (across, base_m - 2, -3.5), size, pick(rng, BRICK))
