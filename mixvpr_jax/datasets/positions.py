"""Positions in metres, in one zone of UTM or in several, and which images lie near one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from utm import to_latlon

from mixvpr_jax.errors import InputError

FARTHEST_M = 4.6e7  # beyond China's eastings, which begin with the zone, 45 at most
NORTHMOST_M = 1.1e7  # more than any northing
BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of latitude, 8 degrees each, from 80 degrees south
MERCATOR = ("EPSG3395", "EPSG3785", "EPSG3857")  # metres that grow away from the equator
MAX_PAIRS = 10**8  # of a query and a positive: 800 MB of indices
EQUATOR_M = 6_378_137.0  # the Earth's radius there, and its flattening, by WGS 84
ECCENTRICITY_SQUARED = 0.00669437999014


def positives_within(
    queries: np.ndarray, database: np.ndarray, radius_m: float
) -> list[np.ndarray]:
    """The database images within a distance of each query.

    Args:
        queries: [q, d] positions in metres.
        database: [n, d] positions in metres.
        radius_m: The largest distance of a positive, in metres, inclusive.

    Returns:
        For each query the ascending indices of its positives; perhaps none.

    Raises:
        InputError: So many that no list of them has a use, as of positions that are all the same.
    """
    from scipy.spatial import KDTree  # loads for 0.3 s, and not all folders have positions

    # The tree offers a little more than asked for, so that the rule itself, not the tree's
    # rounding, decides at exactly the radius.
    tree, radius = KDTree(database), radius_m * (1 + 1e-9)
    pairs = int(tree.query_ball_point(queries, radius, return_length=True).sum())
    if pairs > MAX_PAIRS:
        raise InputError(
            f"expected at most {MAX_PAIRS:,} pairs of a query and a database image within "
            f"{radius_m:g} m, found {pairs:,}"
        )
    found = []
    for query in queries:
        candidates = np.asarray(tree.query_ball_point(query, radius, return_sorted=True), np.int64)
        squared = ((database[candidates] - query) ** 2).sum(1)
        found.append(candidates[squared <= radius_m * radius_m])
    return found


@dataclass(frozen=True)
class Placed:
    """Where n images are.

    Attributes:
        utm: [n, 2] float64, east and north in metres; of several zones, north of the equator.
        zones: [n] int, the UTM zone that the metres are of; 0 of all where they share one plane.
    """

    utm: np.ndarray
    zones: np.ndarray


def place(
    source: object, sides: Sequence[np.ndarray], zones: Sequence[np.ndarray]
) -> tuple[Placed, Placed]:
    """Positions of two lists of images, which may lie in several zones.

    Images of one zone and hemisphere lie on one plane, and so do those without a zone.

    Args:
        source: Where they are from: the beginning of the error line.
        sides: Two arrays [n, 2], east and north in metres.
        zones: For each of them [n] text: zone and latitude band ("32U"), zone ("32"), or nothing.

    Raises:
        InputError: No metres (`require_metres`) or Mercator's, several zones of which some are not
            said, hemispheres in place of latitude bands, or positions outside of any zone.
    """
    require_metres(source, *sides)
    found = np.unique(np.concatenate(zones)).tolist()
    said = [zone for zone in found if zone]
    if longer := [zone for zone in said if zone in MERCATOR]:
        raise InputError(
            f"{source}: expected metres on the ground, such as UTM's, found Mercator's "
            f"({longer[0]}), which are longer; convert the positions to UTM"
        )
    numbers = {zone.rstrip(BANDS) for zone in said}
    hemispheres = {zone[-1] >= "N" for zone in said if zone[-1] in BANDS}
    if len(found) > 1 and all(zone[-1:] in ("N", "S") for zone in found):
        _require_bands(source, sides, zones, "NS")
    if len(numbers) <= 1 and len(hemispheres) <= 1:
        database, queries = (Placed(utm, np.zeros(len(utm), int)) for utm in sides)
        return database, queries
    if len(hemispheres) > 1:
        _require_bands(source, sides, zones, "S")
    if vague := [zone or "none" for zone in found if zone[-1:] not in tuple(BANDS)]:
        raise InputError(
            f"{source}: expected UTM zone and latitude band (@utm_east@utm_north@32@U@) in every "
            f"name, as there are several, found {', '.join(vague)} beside {said[-1]}"
        )
    return _place(source, sides[0], zones[0]), _place(source, sides[1], zones[1])


def _require_bands(
    source: object, sides: Sequence[np.ndarray], zones: Sequence[np.ndarray], letters: str
) -> None:
    """Refuses letters, N and S, for hemispheres: as bands, both are north of the equator."""
    northings, written = np.concatenate(sides)[:, 1].tolist(), np.concatenate(zones).tolist()
    for north, zone in zip(northings, written, strict=True):
        if zone.endswith(tuple(letters)) and not fits_band(zone[-1], north):
            raise InputError(
                f"{source}: expected a latitude band beside each UTM zone (C to M south of the "
                f"equator, N to X north of it), found zone {zone} with a northing of "
                f"{north:,.0f} m, which is not in band {zone[-1]}"
            )


def _place(source: object, utm: np.ndarray, zones: np.ndarray) -> Placed:
    east, north = utm.T
    outside = ~((east >= 1e5) & (east < 1e6) & (north >= 0) & (north <= 1e7))
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            f"{source}: expected positions of UTM zone {zones[first]} (east from 100,000 to "
            f"1,000,000 m, north to 10,000,000 m), found {east[first]:g}, {north[first]:g}"
        )
    southern = np.array([zone[-1] < "N" for zone in zones.tolist()], bool)
    numbers = np.array([int(zone[:-1]) for zone in zones.tolist()], int)
    return Placed(np.stack([east, north - np.where(southern, 1e7, 0.0)], 1), numbers)


def positives_of(queries: Placed, database: Placed, radius_m: float) -> list[np.ndarray]:
    """As `positives_within`: in the plane of a zone, as protocols have it, or through the Earth."""
    every = np.unique(np.concatenate([queries.zones, database.zones])).tolist()
    if len(every) <= 1:
        return positives_within(queries.utm, database.utm, radius_m)
    across = positives_within(_on_earth(queries), _on_earth(database), radius_m)
    positives = [
        near[database.zones[near] != zone] for near, zone in zip(across, queries.zones, strict=True)
    ]
    for zone in every:
        here, there = np.flatnonzero(queries.zones == zone), np.flatnonzero(database.zones == zone)
        within = positives_within(queries.utm[here], database.utm[there], radius_m)
        for query, near in zip(here, within, strict=True):
            positives[query] = np.union1d(positives[query], there[near])
    return positives


def _on_earth(images: Placed) -> np.ndarray:
    """[n, 3] metres from the middle of the Earth."""
    degrees = np.empty((len(images.utm), 2))
    for zone in np.unique(images.zones).tolist():
        of_zone = images.zones == zone
        # "Northern" with negative metres is the south.
        east, north = images.utm[of_zone].T
        degrees[of_zone] = np.stack(to_latlon(east, north, zone, northern=True, strict=False), 1)
    return earth_centred(degrees)


def earth_centred(degrees: np.ndarray) -> np.ndarray:
    """[n, 3] metres from the middle of the Earth, of [n, 2] latitudes and longitudes (WGS 84)."""
    latitude, longitude = np.radians(degrees).T
    normal = EQUATOR_M / np.sqrt(1 - ECCENTRICITY_SQUARED * np.sin(latitude) ** 2)
    return np.stack(
        [
            normal * np.cos(latitude) * np.cos(longitude),
            normal * np.cos(latitude) * np.sin(longitude),
            normal * (1 - ECCENTRICITY_SQUARED) * np.sin(latitude),
        ],
        axis=1,
    )


def on_one_plane(database: Placed, queries: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, 2] that one map can show: those of the zone of most images, NaN for others."""
    zones, counts = np.unique(np.concatenate([database.zones, queries.zones]), return_counts=True)
    if len(zones) <= 1:
        return database.utm, queries.utm
    here = [(side.zones == zones[counts.argmax()])[:, None] for side in (database, queries)]
    return np.where(here[0], database.utm, np.nan), np.where(here[1], queries.utm, np.nan)


def require_metres(source: object, *positions: np.ndarray) -> None:
    """Refuses arrays [n, 2] with positions that are not finite, beyond the Earth, or degrees.

    Degrees: all positions look like it, or those of one array do and lie far from the others.
    Most degrees times 1e6 are beyond the Earth, and Mercator's metres beyond 99 degrees west.
    """
    together = np.concatenate(positions)
    if not np.isfinite(together).all():
        raise InputError(f"{source}: expected positions in metres, found some that are not finite")
    less, more = np.sort(np.abs(together), axis=1).T
    far = (less > NORTHMOST_M) | (more > FARTHEST_M)
    far |= (more > NORTHMOST_M) & (together < 0).any(1)
    if far.any():
        east, north = together[far.argmax()]
        raise InputError(
            f"{source}: expected positions in metres, found some beyond the Earth ({east:.9g}, "
            f"{north:.9g}), such as degrees times 1e6 or Mercator's metres; convert them to UTM"
        )
    apart = [side for side in positions if len(side) < len(together) and _far(side, together)]
    for found in (together, *apart):
        minutes = _like_degrees_and_minutes(found)
        if minutes or _like_degrees(found):
            first = ", ".join(f"{value:.9g}" for value in found[0])
            spread = np.ptp(found, axis=0).max()
            raise InputError(
                f"{source}: expected UTM positions in metres, found what look like degrees of "
                f"latitude and longitude{' with minutes, as NMEA has them,' * minutes} "
                f"({first}, all {len(found):,} within {spread:.2g}); convert them, or, if they are "
                f"metres of a local frame, add {20000 if minutes else 1000} to all of them"
            )


def _like_degrees(positions: np.ndarray) -> bool:
    """Whether positions [n, 2] are in the range of degrees, and no metres around an origin.

    Within that range metres are whole numbers, or have the origin of their frame among them or
    near by, as the degrees of no town and no track have; finer than millimetres, as degrees are
    written, they must stay within 90 of each other as well. Above 180, as longitudes up to 360,
    only such fine values far from an origin are degrees. A frame less than a metre wide is none.
    """
    if not _within(positions, 90, 360):
        return False
    extent, fine, around_origin = np.ptp(positions, axis=0).max(), *_form(positions)
    if 0 < extent < 1:
        return True
    if np.abs(positions).max() > 180:
        return fine and not around_origin
    if (positions == np.rint(positions)).all():
        return False
    return not around_origin or (fine and extent > 90)


def _like_degrees_and_minutes(positions: np.ndarray) -> bool:
    """Whether positions [n, 2] may be NMEA's ddmm.mmmm: finer than millimetres, minutes below 60.

    Those around an origin, also with 1000 added, are metres of a local frame.
    """
    around_zero = _within(positions, 90, 360) or _within(np.abs(positions) - 1000, 360, 360)
    if around_zero or not _within(positions, 9000, 18_000):
        return False
    fine, around_origin = _form(positions)
    return fine and not around_origin and bool((np.abs(positions) % 100 < 60).all())


def _within(positions: np.ndarray, *limits: float) -> bool:
    """Whether there are positions [n, 2], and one axis stays within each limit."""
    return len(positions) > 0 and bool((np.sort(np.abs(positions).max(0)) <= limits).all())


def _form(positions: np.ndarray) -> tuple[bool, bool]:
    """Whether positions are finer than millimetres, and whether they lie around an origin."""
    lowest, highest = positions.min(0), positions.max(0)
    extent = (highest - lowest).max()
    fine = np.abs(1e3 * positions - np.rint(1e3 * positions)).max() > 1e-6
    return bool(fine), bool(((lowest <= extent / 10) & (highest >= -extent / 10)).all())


def _far(side: np.ndarray, together: np.ndarray) -> bool:
    """Whether an array of positions lies ten kilometres or more from all others, as degrees do."""
    if not len(side):
        return False
    low, high = side.min(0) - 1e4, side.max(0) + 1e4
    return int(((together >= low) & (together <= high)).all(1).sum()) == len(side)


def fits_band(band: str, north: float, slack: float = 0.5) -> bool:
    """Whether a northing, in metres, lies in a latitude band, give or take `slack` degrees."""
    latitude = (north if band >= "N" else north - 1e7) / 110_900
    lowest = 8 * BANDS.index(band) - 80
    return lowest - slack <= latitude <= lowest + (12 if band == "X" else 8) + slack
