"""Positions in degrees, which are refused, and in local frames."""

import numpy as np
import pytest
from benchmark_trees import write_images

from mixvpr_jax.datasets import read_folder_pair
from mixvpr_jax.datasets.positions import require_metres
from mixvpr_jax.errors import InputError


def test_degrees_times_1e7_are_no_metres(tmp_path):
    write_images(tmp_path / "both", ["@481234567@115678901@.jpg"])
    with pytest.raises(InputError, match="expected metres on Earth"):
        read_folder_pair(tmp_path / "both", tmp_path / "both")


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "place", [(47.4, 8.5), (51.5, -0.1), (40.4, -3.7), (-33.9, 18.4), (35.7, 139.7), (37.8, -122.4)]
)
def test_degrees_times_1e6_are_no_metres(place, order):
    positions = 1e6 * np.array([place, place])[:, ::order]
    with pytest.raises(InputError, match=r"a: expected positions in metres, .* beyond the Earth"):
        require_metres("a", positions, positions)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("start", [(48.1234567, 11.5), (-33.9, 18.42), (59.9, 10.4), (6.5, 3.4)])
def test_degrees_and_minutes_in_one_number(start, order):
    """NMEA's 4807.4074 is 48 degrees and 7.4074 minutes."""
    degrees = np.array(track(spread=0.3, lat=start[0], lon=start[1], digits=7))
    minutes = np.sign(degrees) * (100 * (np.abs(degrees) // 1) + 60 * (np.abs(degrees) % 1))
    positions = minutes.round(4)[:, ::order]
    with pytest.raises(InputError, match=r"a: .*degrees .* as NMEA has them.* add 20000"):
        require_metres("a", positions, positions[:3])
    require_metres("a", positions + 20_000)


@pytest.mark.parametrize(
    "metres",
    [
        [(32_560_000.0, 5_400_000.0)],  # of zone 32, which stands before them
        [(45_560_000.0, 5_300_000.0)],  # China's
        [(1012.345678, 1059.5), (1013.25, 1012.125)],  # a local frame, to which 1000 was added
        [(4739.774, 832.736)],
        [(0.0, 0.0), (5207.4074, 1133.5)],
        [(4707.4074, 833.5), (4777.25, 834.5)],
    ],
)
def test_metres_like_other_units(metres):
    require_metres("a", np.array(metres), np.array(metres[:1]))


def track(count=40, *, spread=4.0, lat=59.9, lon=10.4, digits=5):
    steps = np.linspace(0, spread, count)
    return [(round(lat + step, digits), round(lon + step / 4, digits)) for step in steps]


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.9, 4.0, 25.0])
@pytest.mark.parametrize("digits", [2, 4, 5, 9])
@pytest.mark.parametrize("start", [(48.85, 2.35), (-33.9, 18.42), (51.5, -0.12), (40.44, -120.0)])
def test_degrees_at_any_spread(spread, digits, start):
    degrees = np.array(track(spread=spread, lat=start[0], lon=start[1], digits=digits))
    for positions in (degrees, degrees[:, ::-1]):
        with pytest.raises(InputError, match=r"a: .*look like degrees .*convert them, or, .*1000"):
            require_metres("a", positions, positions[:3])


@pytest.mark.parametrize("spread", [0.02, 0.9, 4.0, 25.0])
@pytest.mark.parametrize("start", [(40.44, 240.0), (-33.9, 183.5)])
def test_degrees_east_of_greenwich_alone(spread, start):
    degrees = np.array(track(spread=spread, lat=start[0], lon=start[1]))
    for positions in (degrees, degrees[:, ::-1]):
        with pytest.raises(InputError, match=r"a: .*look like degrees"):
            require_metres("a", positions, positions[:3])


def test_degrees_east_of_greenwich_on_both_of_its_sides():
    degrees = np.array([(51.5 + step / 100, (359.85 + step / 100) % 360) for step in range(30)])
    with pytest.raises(InputError, match=r"a: .*look like degrees"):
        require_metres("a", degrees.round(6) + 1e-5, degrees[:3])


def test_degrees_in_names(tmp_path):
    degrees = track()
    for index, order in enumerate((1, -1)):
        folder = tmp_path / str(index)
        names = [f"@{a:.5f}@{b:.14f}@.jpg" for a, b in (place[::order] for place in degrees)]
        write_images(folder, names)
        with pytest.raises(InputError, match=rf"{index} and .*look like degrees"):
            read_folder_pair(folder, folder)


def test_degrees_around_the_world():
    cities = np.array([(48.85837, 2.29448), (-33.85678, 151.21528), (40.68925, -74.0445)])
    with pytest.raises(InputError, match="look like degrees"):
        require_metres("a", cities, cities)


@pytest.mark.parametrize(
    "frame",
    [
        [(0, 1000 * place) for place in range(3)],  # made-up, as SPED and AmsterTime
        [(0, 25 * place) for place in range(3)],
        [(50, 60), (75, 60), (75, 85)],
        [(0.0, 0.0), (0.731, -1.502), (40.25, -12.75)],
        [(0.0, 0.0), (12.345678, -3.456789), (22.5, 4.000001)],
        [(1.25, 0.5), (80.5, 60.25), (33.3, 12.1)],
        [(-71.5, 3.2), (80.25, 7.7), (0.1, 5.0)],
        [(3.5, 180.25), (60.25, 355.5)],
        [(0.0, 0.0), (80.123456, 20.5), (75.25, 250.123456)],
        [(1010.40001, 1063.43107), (1010.40101, 1063.53107)],
        [(5.0, 5.0)],
    ],
)
def test_local_frames_are_no_degrees(frame):
    positions = np.array(frame, float)
    require_metres("a", positions, positions[:1])


def test_a_part_of_a_local_frame_is_no_degrees():
    database = np.array([(400.5, 300.25), (-80.75, -20.5), (10.5, 800.5)])
    require_metres("a", database, np.array([(40.25, 33.75), (41.5, 34.25)]))
