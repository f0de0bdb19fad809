"""Houses and shops along a street, each drawn by lot: walls, windows, signs and roofs."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from demo.palette import BRICK, GLASS, MATERIALS, PAINT_WHITE, PAINTS, ROOFS, TIMBER, TRIMS
from demo.scene import Array, Material, Plane, Thing, pick, vary

DEPTH_M = 9.0


class Building(Thing):
    """A building on one side of the street (-1 left, 1 right), from `near_m` to `far_m`."""

    def __init__(
        self, rng: Generator, side: int, near_m: float, far_m: float, line_m: float
    ) -> None:
        super().__init__(far_m)
        material = str(rng.choice(list(MATERIALS)))
        self.rng, self.side, self.width_m = rng, side, far_m - near_m
        self.wall = Plane((side * line_m, far_m if side > 0 else near_m, 0), (0, -side, 0))
        self.ground_m, self.floor_m = rng.uniform(3.0, 4.4), rng.uniform(2.6, 3.5)
        self.floors = int(rng.choice([1, 1, 2, 2, 3, 3, 4, 5]))
        self.height_m = self.ground_m + self.floor_m * self.floors
        palettes = MATERIALS[material], TRIMS, ROOFS
        self.colour, self.trim, self.roof = (pick(rng, palette) for palette in palettes)
        self.footprint = (side, near_m, far_m, self.height_m)
        self._add_roof()
        self._add_end_wall(near_m, line_m)
        self._on_wall(self.colour, 0, 0, self.width_m, self.height_m)
        self._add_texture(material)
        self._add_windows()
        self._add_ground_floor()

    def _on_wall(self, colour: ArrayLike, *panels: ArrayLike, out: float = 0) -> None:
        """Adds panels of the facade: left, bottom, width and height."""
        self.add(self.wall.panels(*panels, out=out), colour)

    def _glaze(self, *panels: ArrayLike, colour: ArrayLike = GLASS, out: float = 0) -> None:
        self.add(self.wall.panels(*panels, out=out), colour, Material.GLASS)

    def _add_end_wall(self, near_m: float, line_m: float) -> None:
        """The wall that shows where the next building is lower or a side street opens."""
        end, height = (
            Plane((line_m if self.side > 0 else -line_m - DEPTH_M, near_m, 0)),
            self.height_m,
        )
        self.add(end.panels(0, 0, DEPTH_M, height), self.colour * 0.93)
        if self.rng.random() < 0.4:
            advert = end.panels(1.5, height * 0.45, DEPTH_M - 3, height * 0.4)
            self.add(advert, pick(self.rng, PAINTS))
            self._add_lettering(end, 2.2, height * 0.6, DEPTH_M - 4.4, 1.2)
        else:
            up = self.ground_m + self.floor_m * np.arange(self.floors)
            left = np.repeat([2.0, 5.6], len(up))
            self.add(end.panels(left, np.tile(up + 0.6, 2), 1.0, 1.5), GLASS, Material.GLASS)

    def _add_texture(self, material: str) -> None:
        """What the wall is made of: courses and odd bricks, stones, beams, or stains."""
        rng, width, height = self.rng, self.width_m, self.height_m
        if material in ("brick", "stone"):
            course, share = (0.3, 1.0) if material == "brick" else (0.6, 0.6)
            self._on_wall(self.colour * 0.84, 0, np.arange(course, height, course), width, 0.05)
            count = int(width * height * share)
            rows = rng.integers(0, int(height / course), count) * course + 0.05
            bricks = rng.uniform(0, width - 1, count), rows, course * 1.8, course - 0.05
            self._on_wall(vary(rng, self.colour, count, 0.16), *bricks)
        elif material == "timber":
            beams = np.linspace(0, width - 0.22, int(width / rng.uniform(1.1, 2.2)) + 2)
            self._on_wall(TIMBER, beams, self.ground_m, 0.22, height - self.ground_m)
            storeys = self.ground_m + self.floor_m * np.arange(self.floors + 1)
            self._on_wall(TIMBER, 0, storeys - 0.15, width, 0.3)
        else:
            corners = rng.uniform(0, [[width - 2], [height * 0.8]], (2, 14))
            sizes = rng.uniform(0.3, 2, (2, 14))
            self._on_wall(vary(rng, self.colour, 14, 0.06), *corners, *sizes)

    def _add_windows(self) -> None:
        """A grid of windows with bars, shutters where there is room, and balconies or sills."""
        rng, width = self.rng, self.rng.uniform(0.8, 1.5)
        height = rng.uniform(0.5, 0.68) * self.floor_m
        columns = max(2, int(self.width_m / (width + rng.uniform(0.7, 1.9))))
        pitch = self.width_m / columns
        across = (np.arange(columns) + 0.5) * pitch - width / 2
        floors = self.ground_m + self.floor_m * (np.arange(self.floors) + 0.22)
        left, up = (grid.ravel() for grid in np.meshgrid(across, floors))
        self._on_wall(self.trim, left - 0.14, up - 0.14, width + 0.28, height + 0.28)
        self._glaze(left, up, width, height, colour=vary(rng, GLASS, len(left), 0.25))
        for bar in np.linspace(0, width, int(rng.integers(2, 5)))[1:-1]:
            self._on_wall(self.trim, left + bar - 0.04, up, 0.08, height)
        if rng.random() < 0.6:
            self._on_wall(self.trim, left, up + height * 0.65, width, 0.08)
        if pitch > width * 1.9 and rng.random() < 0.35:
            shutter = width * 0.45
            sides = np.concatenate([left - shutter - 0.1, left + width + 0.1])
            self._on_wall(pick(rng, PAINTS), sides, np.tile(up, 2), shutter, height)
        if rng.random() < 0.3:
            self._on_wall(self.trim * 0.75, left - 0.3, up - 0.3, width + 0.6, 0.9, out=0.5)
        else:
            self._on_wall(self.trim * 0.9, left - 0.2, up - 0.25, width + 0.4, 0.15, out=0.1)

    def _add_lettering(
        self, plane: Plane, left_m: float, bottom_m: float, width_m: float, height_m: float
    ) -> None:
        """Blocks and strokes that look like the letters of a sign."""
        rng, count = self.rng, max(3, int(width_m / height_m * 1.3))
        pitch = width_m / count
        left = left_m + pitch * np.flatnonzero(rng.random(count) < 0.85)
        colour = PAINT_WHITE if rng.random() < 0.7 else PAINTS[3]
        for stroke in range(3):
            low, high = np.sort(rng.uniform(0, 1, (2, len(left))), axis=0)
            shift, slim = rng.uniform(0, 0.45, len(left)) * pitch, 0.16
            tall = np.minimum(high - low, 0.3)
            if stroke == 0:
                low, tall, slim = 0.0, 1.0, 0.16 + 0.2
            panels = left + shift, bottom_m + low * height_m, pitch * slim, tall * height_m
            self.add(plane.panels(*panels, out=0.12), colour)

    def _add_ground_floor(self) -> None:
        """A shop or the front of a house, its door, and perhaps a sign over the pavement."""
        rng, door = self.rng, self.rng.uniform(0.6, self.width_m - 1.9)
        if rng.random() < 0.55:
            self._add_shop()
        else:
            windows = np.arange(0.8, self.width_m - 1.4, rng.uniform(1.9, 3))
            windows = windows[np.abs(windows - door) > 1.5]
            self._on_wall(self.trim, windows - 0.12, 0.9, 1.24, 1.7)
            self._glaze(windows, 1.0, 1.0, 1.5)
            self._on_wall(self.colour * 0.7, 0, 0, self.width_m, 0.5)
        self._on_wall(self.trim, door - 0.15, 0, 1.4, 2.55)
        self._on_wall(pick(rng, PAINTS) * 0.8, door, 0, 1.1, 2.4)
        if rng.random() < 0.35:  # a sign that faces whoever comes down the street
            x, y, z = self.wall.points(rng.uniform(1, self.width_m - 1), self.ground_m + 0.4, 0.2)
            board = Plane((min(x, x - 1.1 * np.sign(x)), y, z))
            self.add(board.panels(0, 0, 1.0, 0.9), pick(rng, PAINTS))
            self._add_lettering(board, 0.15, 0.25, 0.7, 0.4)

    def _add_shop(self) -> None:
        """A shop window in panes below a sign, and perhaps an awning of striped cloth."""
        rng, width, height = self.rng, self.width_m, self.ground_m
        self._on_wall(pick(rng, PAINTS), 0.25, 0, width - 0.5, height - 0.2)
        edges = np.linspace(0.5, width - 0.5, int(width / rng.uniform(1.6, 3)) + 2)
        self._glaze(edges[:-1] + 0.1, 0.6, np.diff(edges) - 0.2, height - 1.7)
        left = width * rng.uniform(0.08, 0.4)
        self._add_lettering(self.wall, left, height - 0.85, width * 0.5, 0.5)
        if rng.random() < 0.5:
            slope = self._slope(height - 0.9 - 0.8, 0.8, 1.3, 1.3)
            stripes = np.arange(0.3, width - 0.6, 0.6)
            is_white = np.arange(len(stripes))[:, None] % 2
            colours = np.where(is_white, PAINT_WHITE, pick(rng, PAINTS))
            self.add(slope.panels(stripes, 0, 0.6, 1.0), colours)

    def _slope(self, bottom_m: float, rise_m: float, out_m: float, back_m: float) -> Plane:
        """A plane from `out_m` in front of the facade up and back; its height is 1."""
        foot = self.wall.points(0, bottom_m, out_m)
        return Plane(foot, self.wall.right, self.wall.points(0, rise_m, -back_m) - self.wall.origin)

    def _add_roof(self) -> None:
        """A flat roof with a cornice, a slope with tiles and dormers, or a gable; then chimneys."""
        rng, width, top = self.rng, self.width_m, self.height_m
        kind = rng.choice(["flat", "slope", "slope", "mansard", "gable"])
        rise, back = (rng.uniform(2, 4.2), 4.5) if kind != "mansard" else (2.8, 1.0)
        base = top + (0 if kind == "flat" else rise * 0.6)
        for across in rng.uniform(0.5, width - 1, rng.integers(0, 4)):
            size = (0.9, rng.uniform(2.8, 4.6), 0.7)
            self._add_box_on_wall((across, base - 2, -3.5), size, pick(rng, BRICK))
        if kind == "flat":
            cornice = rng.uniform(0.5, 1.2)
            self._on_wall(self.trim * 0.95, -0.15, top - 0.3, width + 0.3, cornice, out=0.35)
        elif kind == "gable":
            self._add_gable()
        else:
            slope = self._slope(top, rise, 0.3, back)
            self.add(slope.panels(0, 0, width, 1), self.roof, Material.ROOF)
            tiles = slope.panels(0, np.arange(0.1, 1, 0.1), width, 0.02)
            self.add(tiles, self.roof * 0.8, Material.ROOF)
            left = np.arange(rng.uniform(0.5, 2), width - 1.5, rng.uniform(2.5, 5))
            for across in left:
                self._add_box_on_wall((across, top + 0.3, -0.3), (1.5, 1.8, 2.5), self.trim)
            self._glaze(left + 0.25, top + 0.3 + 0.3, 1.0, 1.2, out=-0.25)

    def _add_gable(self) -> None:
        """A gable over the facade and the one slope of the roof behind it that faces the camera."""
        wall, width, top = self.wall, self.width_m, self.height_m
        peak = top + width * 0.45
        gable = wall.points([0, width, width / 2, width / 2], [top, top, peak, peak])
        ridge = wall.points(width / 2, peak, -DEPTH_M)
        back, front = wall.points(width if self.side > 0 else 0, top, [-DEPTH_M, 0])
        slope = [back, front, gable[2], ridge] if self.side < 0 else [front, back, ridge, gable[2]]
        self.add(np.stack(slope), self.roof, Material.ROOF)
        self.add(gable, self.colour)
        self._glaze(width / 2 - 0.5, top + 0.5, 1.0, 1.3)

    def _add_box_on_wall(self, foot_m: ArrayLike, size_m: ArrayLike, colour: Array) -> None:
        """Adds a box from its foot, across, up and out, and its size across, up and back."""
        ends = np.array([foot_m, np.add(foot_m, size_m * np.array([1, 1, -1]))])
        low, high = np.sort(self.wall.points(*ends.T), axis=0)
        self.add_box(low, high - low, colour)
