"""Coloured quads in metres, which a street is made of, and the planes that they are drawn on.

The frame of a street: x to the right across it, y forward along it, z up. A quad's corners run
counter-clockwise as seen from its visible side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]
Point = Sequence[float] | Array


class Material(IntEnum):
    """How a quad answers to light and season."""

    MATTE = 0
    ROOF = 1
    GROUND = 2
    GLASS = 3
    LEAF = 4
    LAMP = 5
    SHADOW = 6


@dataclass(frozen=True)
class Quads:
    """Quads in the order in which they are painted.

    Attributes:
        corners: [n, 4, 3] metres in the frame of the street.
        colours: [n, 3] in 0 … 255, before light.
        materials: [n] values of `Material`.
        depths_m: [n] place of the quad's object along the street.
    """

    corners: Array
    colours: Array
    materials: NDArray[np.int64]
    depths_m: Array


@dataclass(frozen=True)
class Plane:
    """A plane to draw on: its origin and, as one faces it, which way it runs right and up."""

    origin: Point
    right: Point = (1.0, 0.0, 0.0)
    up: Point = (0.0, 0.0, 1.0)

    def points(self, across_m: ArrayLike, up_m: ArrayLike, out_m: ArrayLike = 0.0) -> Array:
        """Points [..., 3] of the street from places on the plane and in front of it."""
        (rx, ry, rz), (ux, uy, uz) = self.right, self.up
        out = np.array([ry * uz - rz * uy, rz * ux - rx * uz, rx * uy - ry * ux])
        across, up, ahead = (np.asarray(value)[..., None] for value in (across_m, up_m, out_m))
        return across * self.right + up * self.up + ahead * out + self.origin

    def panels(
        self,
        left_m: ArrayLike,
        bottom_m: ArrayLike,
        width_m: ArrayLike,
        height_m: ArrayLike,
        out_m: float = 0,
    ) -> Array:
        """Rectangles [n, 4, 3]; the arguments are numbers or [n]."""
        measures = (left_m, bottom_m, width_m, height_m)
        rows = np.empty((4, np.broadcast(*measures).size, 1))
        for row, measure in zip(rows, measures, strict=True):
            row[:, 0] = measure
        left, bottom, width, height = rows
        return self.points(left + width * [0, 1, 1, 0], bottom + height * [0, 0, 1, 1], out_m)


GROUND = Plane((0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0))


class Thing:
    """One object of the scene, painted as a unit: its later quads cover its earlier ones."""

    def __init__(self, depth_m: float) -> None:
        self.depth_m = depth_m
        self._parts: list[tuple[Array, ...]] = []

    def add(self, corners: Array, colour: ArrayLike, material: Material = Material.MATTE) -> None:
        """Adds corners [n, 4, 3] or [4, 3] of one colour [3], or of a colour each [n, 3]."""
        corners = corners.reshape(-1, 4, 3)
        count = len(corners)
        colours = np.broadcast_to(np.asarray(colour, float), (count, 3))
        self._parts.append(
            (corners, colours, np.full(count, material), np.full(count, self.depth_m))
        )

    def add_box(
        self,
        corner: ArrayLike,
        size_m: ArrayLike,
        colour: ArrayLike,
        material: Material = Material.MATTE,
    ) -> None:
        """Adds an upright box from its least x, y and z [3] and its size along them [3]."""
        (x, y, z), (width, length, height) = np.asarray(corner, float), np.asarray(size_m, float)
        faces = [
            Plane((x, y, z)).panels(0, 0, width, height),
            Plane((x + width, y, z), (0, 1, 0)).panels(0, 0, length, height),
            Plane((x, y + length, z), (0, -1, 0)).panels(0, 0, length, height),
            Plane((x, y, z + height), up=(0, 1, 0)).panels(0, 0, width, length),
        ]
        self.add(np.concatenate(faces), colour, material)

    def quads(self) -> Quads:
        """All that was added."""
        return Quads(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def merge(groups: Iterable[Quads]) -> Quads:
    """Several groups as one, the farthest object first."""
    rows = [(group.corners, group.colours, group.materials, group.depths_m) for group in groups]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.argsort(-columns[-1], kind="stable")
    return Quads(*(column[order] for column in columns))


def pick(rng: Generator, colours: list[tuple[int, int, int]]) -> Array:
    """One colour [3] of a palette, slightly varied."""
    return np.asarray(colours[rng.integers(len(colours))]) * rng.uniform(0.9, 1.08)


def vary(rng: Generator, colour: ArrayLike, count: int, amount: float) -> Array:
    """Shades [count, 3] of one colour, lighter and darker by up to `amount` of it."""
    return np.asarray(colour) * rng.uniform(1 - amount, 1 + amount, (count, 1))
