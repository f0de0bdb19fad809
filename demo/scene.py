"""Coloured quads in metres, which a street is made of, and the planes that they are drawn on.

The frame of a street: x to the right across it, y forward along it, z up; the place's centre is the
origin, on the road. A quad's corners run counter-clockwise as seen from its visible side.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]

# The faces of a unit box that a camera can see: front, right, left and top.
BOX_FACES = np.array(
    [
        [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        [(0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)],
        [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
    ]
)


class Material(IntEnum):
    """How a quad reacts to light and season."""

    MATTE, ROOF, GROUND, GLASS, LEAF, LAMP, SHADOW = range(7)


class Quads(NamedTuple):
    """Quads in painting order: corners [n, 4, 3], colours [n, 3] in 0 … 255, materials [n]."""

    corners: Array
    colours: Array
    materials: NDArray[np.int64]


class Plane:
    """A plane to draw on: its origin and, as one faces it, which way it runs right and up."""

    def __init__(
        self, origin: ArrayLike, right: ArrayLike = (1, 0, 0), up: ArrayLike = (0, 0, 1)
    ) -> None:
        self.origin, self.right, self.up = map(np.asarray, (origin, right, up))
        self.out = np.cross(self.right, self.up)

    def points(self, across_m: ArrayLike, up_m: ArrayLike, out_m: ArrayLike = 0.0) -> Array:
        """Points [..., 3] of the street from places on the plane and in front of it."""
        across, up, out = (np.asarray(value)[..., None] for value in (across_m, up_m, out_m))
        return across * self.right + up * self.up + out * self.out + self.origin

    def panels(self, *measures: ArrayLike, out: ArrayLike = 0) -> Array:
        """Rectangles [n, 4, 3]: left, bottom, width and height as numbers or arrays [n], metres."""
        measured = np.array(np.broadcast_arrays(*measures), float)
        left, bottom, width, height = measured.reshape(4, -1, 1)
        return self.points(left + width * [0, 1, 1, 0], bottom + height * [0, 0, 1, 1], out)


GROUND = Plane((0, 0, 0), up=(0, 1, 0))


class Thing:
    """One object of the scene, painted as a unit: its later quads cover its earlier ones."""

    def __init__(self, depth_m: float) -> None:
        self.depth_m, self.parts = depth_m, list[Quads]()

    def add(self, corners: Array, colour: ArrayLike, material: Material = Material.MATTE) -> None:
        """Adds corners [n, 4, 3] or [4, 3] of one colour [3], or of a colour each [n, 3]."""
        corners = corners.reshape(-1, 4, 3)
        colours = np.broadcast_to(np.asarray(colour, float), corners[:, 0].shape)
        self.parts.append(Quads(corners, colours, np.full(len(corners), material)))

    def add_box(
        self,
        corner: ArrayLike,
        size_m: ArrayLike,
        colour: ArrayLike,
        material: Material = Material.MATTE,
    ) -> None:
        """Adds an upright box from its least x, y and z [3] and its size along them [3]."""
        faces = np.asarray(size_m, float) * BOX_FACES + np.asarray(corner, float)
        self.add(faces, colour, material)


def merge(things: Iterable[Thing]) -> Quads:
    """The quads of several things, the farthest first."""
    ordered = sorted(things, key=lambda thing: -thing.depth_m)
    parts = (part for thing in ordered for part in thing.parts)
    return Quads(*map(np.concatenate, zip(*parts, strict=True)))


def pick(rng: Generator, colours: list[tuple[int, int, int]]) -> Array:
    """One colour [3] of a palette, slightly varied."""
    return np.asarray(colours[rng.integers(len(colours))]) * rng.uniform(0.9, 1.08)


def vary(rng: Generator, colour: ArrayLike, count: int, amount: float) -> Array:
    """Shades [count, 3] of one colour, lighter and darker by up to `amount` of it."""
    return np.asarray(colour) * rng.uniform(1 - amount, 1 + amount, (count, 1))
