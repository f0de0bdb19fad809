"""Places: photos near one another that look the same way, in cities whose places lie apart.

Batches are of one city. So places that lie near each other and look the same way go into different
cities, like CosPlace's groups (Berton et al., "Rethinking visual geo-localization for large-scale
applications", 2022): none is taken for a negative of another.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from mixvpr_jax.datasets.positions import earth_centred
from mixvpr_jax.exif import Taken

MIN_PLACES = 2  # of a city: one place has no negatives
SLACK = 1e-6  # in metres and degrees: more than rounding makes of either


@dataclass(frozen=True)
class Place:
    """A place: its city's number, its own number there, and the indices of its photos."""

    city: int
    place_id: int
    photos: tuple[int, ...]


def group(
    taken: Sequence[Taken],
    *,
    radius_m: float,
    heading_degrees: float,
    apart_m: float,
    min_images: int,
    min_days: int,
) -> list[Place]:
    """The places of those photos that have a position, by city and number.

    Distances are chords through the Earth, so that neither zones nor the date line matter. The
    options are those of `PlacesConfig`.
    """
    known = np.flatnonzero([one.position is not None for one in taken])
    taken = [taken[index] for index in known.tolist()]
    points = earth_centred(np.array([one.position for one in taken], np.float64))
    headings = np.array([np.nan if one.heading is None else one.heading for one in taken])
    days = [None if one.time is None else one.time.date() for one in taken]

    def enough(photos: np.ndarray) -> bool:
        there = {days[photo] for photo in photos.tolist()} - {None}
        return len(photos) >= min_images and len(there) >= (min_days if min_days > 1 else 0)

    found = [
        (centre, photos)
        for centre, photos in _clusters(points, headings, radius_m, heading_degrees / 2)
        if enough(photos)
    ]
    if not found:
        return []
    centres = [centre for centre, _ in found]
    cities = _cities(points[centres], headings[centres], apart_m, heading_degrees)
    counts = sorted(Counter(cities).items())
    numbers = {city: number for number, city in enumerate(c for c, n in counts if n >= MIN_PLACES)}
    next_id = Counter[int]()
    places = []
    for city, (_, photos) in zip(cities, found, strict=True):
        if city in numbers:
            places.append(Place(numbers[city], next_id[city], tuple(known[photos].tolist())))
            next_id[city] += 1
    return places


def _clusters(
    points: np.ndarray, headings: np.ndarray, radius_m: float, turn: float
) -> Iterator[tuple[int, np.ndarray]]:
    """The photo with the most others around it, and all of these; then those of what is left.

    A place changes the counts of all photos around it, perhaps thousands at one spot. So only upper
    bounds are kept, those of a small cell's photos found together, and a photo is counted where its
    bound is the largest. The heap holds each cell by its largest bound and the first photo with it.
    """
    tree, free = KDTree(points), np.ones(len(points), bool)
    bounds = np.full(len(points), len(points))
    cell_of = np.unique(np.floor(16 * points / radius_m), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(cell_of, kind="stable")
    cells = np.split(order, np.flatnonzero(np.diff(cell_of[order])) + 1)
    heap = [(-len(points), int(cell[0]), number) for number, cell in enumerate(cells)]
    heapq.heapify(heap)
    while heap:
        *best, number = heapq.heappop(heap)
        cell = cells[number][free[cells[number]]]
        if len(cell) > 1:
            middle = points[cell].mean(0)
            reach = radius_m + np.linalg.norm(points[cell] - middle, axis=1).max() + SLACK
            near = np.array(tree.query_ball_point(middle, reach))
            alike = _count_alike(headings[near[free[near]]], headings[cell], turn + SLACK)
            bounds[cell] = np.minimum(bounds[cell], alike)
        while len(cell := cell[free[cell]]):
            centre = int(cell[bounds[cell].argmax()])
            if [-bounds[centre], centre] > best:
                heapq.heappush(heap, (-int(bounds[centre]), centre, number))
                break
            near = np.array(tree.query_ball_point(points[centre], radius_m, return_sorted=True))
            unknown = np.isnan(headings[near]) & np.isnan(headings[centre])
            alike = unknown | (_turn(headings[near], headings[centre]) <= turn)
            photos = near[free[near] & alike]
            if len(photos) == bounds[centre]:  # and no other photo has more
                free[photos] = False
                yield centre, photos
            bounds[centre] = len(photos)


def _count_alike(headings: np.ndarray, looks: np.ndarray, turn: float) -> np.ndarray:
    """For each of `looks` how many headings are within a turn of it; NaN counts NaN."""
    known = np.sort(headings[~np.isnan(headings)] % 360)
    around = np.concatenate([known - 360, known, known + 360])
    first, end = (np.searchsorted(around, looks % 360 + shift) for shift in (-turn, turn))
    return np.where(np.isnan(looks), len(headings) - len(known), end - first)


def _turn(one: np.ndarray, other: float) -> np.ndarray:
    """Degrees between headings, 0 to 180; NaN where one is unknown."""
    return np.abs((one - other + 180) % 360 - 180)


def _cities(centres: np.ndarray, headings: np.ndarray, apart_m: float, turn: float) -> list[int]:
    """For each place the first city without one near by that looks the same way."""
    near = KDTree(centres).query_ball_point(centres, apart_m)
    cities = np.full(len(centres), -1)
    for place, others in enumerate(map(np.array, near)):
        alike = ~(_turn(headings[others], headings[place]) > turn)  # or unknown
        taken = set(cities[others[alike]].tolist())
        cities[place] = next(city for city in range(len(centres)) if city not in taken)
    return cities.tolist()
