"""Positions in zones of UTM."""

from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import listed, write_images
from utm import from_latlon

from mixvpr_jax.datasets import read_folder_pair
from mixvpr_jax.datasets.names import zone_of
from mixvpr_jax.datasets.positions import positives_within
from mixvpr_jax.errors import InputError


def name(east, north, zone="", band="", *, key="", short=False):
    """As VPR-datasets-downloader names files; a short name ends after the band."""
    begin = f"@{east:010.2f}@{north:010.2f}@{zone}@{band}@"
    return f"{begin}{key}.jpg" if short else f"{begin}@@{key}@@@@@@@@.jpg"


def pair(root, database, queries):
    """Folders of such names, which sort in the order given, and the set that they make."""
    folders = root / "town" / "database", root / "town" / "queries"
    for folder, names in zip(folders, (database, queries), strict=True):
        write_images(folder, [f"{index}/{one}" for index, one in enumerate(names)])
    return read_folder_pair(*folders)


def in_degrees(latitude, longitude, **options):
    """A name of a place, in the zone that it lies in."""
    east, north, zone, band = from_latlon(latitude, longitude)
    return name(east, north, f"{zone:02d}", band, **options)


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("zone", ["33", "33.0"])  # of pandas, beside blanks
def test_the_same_metres_of_two_zones_are_far_apart(tmp_path, short, zone):
    database = [name(5e5, 54e5, zone, "U", short=short) for zone in ("32", "33")]
    found = pair(tmp_path, database, [name(500_001, 54e5, zone, "U", short=short)])
    assert listed(found.positives) == [[1]]


@pytest.mark.parametrize("zone", ["@33@U", "@33U", "@33@u", "@33.0@U"])
def test_a_zone_may_end_a_name(tmp_path, zone):
    write_images(tmp_path / "database", ["@500000.00@5400000.00@32@U.jpg"])
    write_images(tmp_path / "queries", [f"@500000.00@5400000.00{zone}.jpg"])
    found = read_folder_pair(tmp_path / "database", tmp_path / "queries")
    assert listed(found.positives) == [[]]


@pytest.mark.parametrize("written", ["{}/@5e5@{}@.jpg", "x/@5e5@{1}@{0}@0007@.jpg"])
@pytest.mark.parametrize(
    ("codes", "norths", "positives"),
    [
        (("EPSG32632", "EPSG32633"), (54e5, 54e5), [[1]]),
        (("epsg:32633", "EPSG-32633"), (54e5, 54e5), [[0, 1]]),
        (("epsg_32733", "epsg 32633"), (9_999_999, 1), [[0, 1]]),
        (("EPSG27700", "EPSG27700"), (4e5, 4e5), [[0, 1]]),
    ],
)
def test_codes_of_epsg_tell_zones(tmp_path, written, codes, norths, positives):
    names = [written.format(*each) for each in zip(codes, norths, strict=True)]
    assert listed(pair(tmp_path, names, names[1:]).positives) == positives


@pytest.mark.parametrize(
    ("code", "zone"),
    [
        ("32660", "60U"),
        ("25832", "32U"),
        ("26917", "17U"),
        ("26929", "EPSG26929"),  # Alabama's plane
        ("25839", "EPSG25839"),
        ("32661", "EPSG32661"),  # around the pole
        ("32600", "EPSG32600"),
        ("326330", ""),
    ],
)
def test_codes_of_utm_and_those_beside_them(code, zone):
    assert zone_of(Path(f"epsg{code}/@500000.0@5400000.0@.jpg"), 54e5) == zone


@pytest.mark.parametrize("code", ["EPSG:3857", "epsg_3395"])
def test_metres_of_mercator_are_refused(tmp_path, code):
    """Of web maps: 20 m at 60 degrees north are 40 there."""
    names = [f"{code}/@1113194.91@{north}@.jpg" for north in (8399737.89, 8399777.89)]
    with pytest.raises(InputError, match=r"metres on the ground, .* found Mercator's .*EPSG3"):
        pair(tmp_path, names, names[1:])


@pytest.mark.parametrize(
    ("written", "north", "zone"),
    [
        ("UTM32N", 54e5, "32U"),  # N and S for the hemispheres, as GIS write them
        ("utm_zone_33s", 62e5, "33H"),
        ("UTM 33S", 415e4, "33S"),  # Sicily, by its band
        ("UTM-32@U", 54e5, "32U"),
        ("UTM32", 54e5, "32"),
        ("UTM32@E", 54e5, "32"),  # looking east
        ("UTM32@cam0", 54e5, "32"),
        ("UTM32U", 54e5, "32U"),
        ("utm", 54e5, ""),
        ("utm7x", 54e5, "7"),
        ("utm61n", 54e5, ""),
        ("UTM zone 32 North", 54e5, "32U"),
        ("32-U", 54e5, "32U"),
        ("Z32_U", 54e5, "32U"),
        ("32-U", 44e5, ""),
        ("zone32", 54e5, ""),  # perhaps of a building
    ],
)
def test_utm_before_a_zone(written, north, zone):
    assert zone_of(Path(f"@500000.0@{north}@{written}@7@.jpg"), north) == zone


@pytest.mark.parametrize(
    ("folder", "zone"),
    [
        *(
            ("utm32n", "32U"),
            ("x_UTM-33S/a", "33G"),
            ("utm_3d", ""),
            ("utm_2", ""),
            ("outm32n", ""),
        ),
        *(("32U", "32U"), ("zone_32U/a", "32U"), ("32U/utm-33-u", "33U"), ("UTM 33 north", "33U")),
        *(("5-U", ""), ("05U", "5U"), ("zone 5U", ""), ("utm_5u", "5U"), ("32N", "")),
        *(("32u", ""), ("zone_32u", "32U"), ("24g", ""), ("60_g", ""), ("24G", "24G")),
        *(("zone_32", ""), ("x32U", ""), ("32U_2", "")),
    ],
)
def test_utm_in_the_name_of_a_folder(folder, zone):
    assert zone_of(Path(folder, "@500000.0@5400000.0@@.jpg"), 54e5) == zone


@pytest.mark.parametrize("short", [True, False])
def test_the_same_metres_of_two_utm_zones_are_far_apart(tmp_path, short):
    database = [name(5e5, 54e5, f"UTM{zone}", "U", short=short) for zone in (32, 33)]
    assert listed(pair(tmp_path, database, database[1:]).positives) == [[1]]


def test_codes_of_several_grids_are_refused(tmp_path):
    names = [f"@400000.0@400000.0@{code}@.jpg" for code in ("EPSG27700", "EPSG29903")]
    with pytest.raises(InputError, match="as there are several, found EPSG27700, EPSG29903 beside"):
        pair(tmp_path, names, names)


@pytest.mark.parametrize("query", ["@4100000.0@500000.0@.jpg", "@500.0@4100.0@.jpg"])
def test_queries_that_are_all_far_away_are_told(tmp_path, caplog, query):
    write_images(tmp_path / "database", ["@500000.0@4100000.0@.jpg"])
    write_images(tmp_path / "queries", [query])
    read_folder_pair(tmp_path / "database", tmp_path / "queries")
    assert "no query has a database photo within 25 m, so recall is 0" in caplog.text


@pytest.mark.parametrize("name", ["@0@0@{}@.jpg", "@500.{}@4100.0@.jpg"])
def test_positions_that_make_every_photo_a_positive_are_told(name, tmp_path, caplog):
    """Placeholders, and kilometres."""
    write_images(tmp_path / "database", [name.format(index) for index in range(4)])
    write_images(tmp_path / "queries", [name.format(5)])
    found = read_folder_pair(tmp_path / "database", tmp_path / "queries")
    assert "every query has all 4 database photos within 25 m, so recall is 100" in caplog.text
    assert listed(found.positives) == [[0, 1, 2, 3]]
    caplog.clear()
    write_images(tmp_path / "database", ["@600.0@4900.0@.jpg"])
    read_folder_pair(tmp_path / "database", tmp_path / "queries")
    assert not caplog.text


@pytest.mark.parametrize(
    ("others", "positives"),
    [
        (("32", "T"), [0, 1]),  # a band further south, of the same plane
        (("32", "G"), [0]),  # the southern hemisphere
        (("31", "U"), [0]),
        (("32U", ""), [0, 1]),
        (("32", "u"), [0, 1]),
        (("33u", ""), [0]),
        (("033", "U"), [0]),
        (("33 ", "U"), [0]),
        (("32", ""), [0, 1]),
        (("", ""), [0, 1]),
    ],
)
def test_which_positions_share_a_plane(tmp_path, others, positives):
    database = [name(5e5, 53.2e5, "32", "U"), name(500_020, 53.2e5, *others)]
    assert listed(pair(tmp_path, database, [name(5e5, 53.2e5, "32", "U")]).positives) == [positives]


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (48.1, 12),
        (37.7, -120),
        (-33.9, 150),
        (59.9, 12),
        (0.3, 30),
        (1e-5, 31),
        (-75, 60),
        (8, 180),
    ],
)
def test_a_border_between_zones_or_hemispheres_is_no_border(tmp_path, latitude, longitude):
    """Places 24 and 26 m east of a query: distances are those on the Earth, not in a plane."""
    metre = 1 / (111_320 * np.cos(np.radians(latitude)))  # in degrees of longitude
    east = [longitude + metre * offset for offset in (14, 16)]
    database = [in_degrees(latitude, lon - 360 * (lon >= 180)) for lon in east]
    found = pair(tmp_path, database, [in_degrees(latitude, longitude - 10 * metre)])
    assert listed(found.positives) == [[0]]


def test_both_sides_of_the_equator(tmp_path):
    north, south = (from_latlon(latitude, 33.0) for latitude in (4e-5, -4e-5))
    assert (north[3], south[3]) == ("N", "M")
    database = [name(*north[:2], north[2], north[3]), name(*north[:2], 36, "M")]
    found = pair(tmp_path, database, [name(*south[:2], south[2], south[3])])
    assert listed(found.positives) == [[0]]  # 9 m away; 4 m north of the south's own zero is not
    np.testing.assert_allclose(found.queries_utm, [(5e5, -4.42)], atol=0.1)


def test_s_is_a_latitude_band_not_the_south(tmp_path):
    """San Francisco lies in 10S, San Diego in 11S."""
    database = [in_degrees(37.77, -122.42), in_degrees(32.72, -117.16)]
    assert ["@10@S@" in database[0], "@11@S@" in database[1]] == [True, True]
    assert listed(pair(tmp_path, database, [database[1]]).positives) == [[1]]


@pytest.mark.parametrize(
    ("north", "zones", "found"),
    [
        (4e6, [("32", "N"), ("32", "S")], "32N"),
        (6.955e6, [("56", "J"), ("56", "S")], "56S"),  # bands on one side, hemispheres on the other
        (6.2e6, [("55", "H"), ("56", "H"), ("56", "S")], "56S"),
    ],
)
def test_hemispheres_in_place_of_bands_are_refused(tmp_path, north, zones, found):
    *database, query = [name(5e5, north, *zone) for zone in zones]
    message = rf"latitude band beside each UTM zone \(C to M south.*{found}"
    with pytest.raises(InputError, match=message):
        pair(tmp_path, database, [query])


def test_n_means_the_north_of_the_equator_either_way(tmp_path):
    database = [name(5e5, 53e5, "32", "U"), name(5e5, 53e5, "33", "U")]
    assert listed(pair(tmp_path, database, [name(5e5, 53e5, "33", "N")]).positives) == [[1]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([("32", "U"), ("33", "U"), ("", "")], r"zone and latitude band .* found none beside 33U"),
        ([("32", ""), ("33", ""), ("33", "")], r"latitude band .* in every name, .* found 32, 33"),
        ([("32", "U"), ("33.5", "U")], r"expected a UTM zone .* found @33.5@U@"),
        ([("32", "U"), ("61", "U")], r"expected a UTM zone from 1 to 60 .* found @61@U@"),
        ([("32", "U"), ("00", "U")], r"expected a UTM zone from 1 to 60 .* found @00@U@"),
    ],
)
def test_zones_that_leave_open_which(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        pair(tmp_path, [name(5e5, 53e5, *zone) for zone in names], [name(5e5, 53e5, *names[0])])


def test_positions_that_lie_in_no_zone(tmp_path):
    database = [name(5e5, 53e5, "32", "U"), name(25, 50, "33", "U")]
    with pytest.raises(InputError, match=r"expected positions of UTM zone 33U .* found 25, 50"):
        pair(tmp_path, database, database[:1])


def test_other_names_keep_their_own_fields(tmp_path):
    """A number and a letter that are no zone: a frame and a camera, or which way it looks."""
    database = ["@500000.0@4180000.0@7@.jpg", "@500010.0@4180000.0@8@x@.jpg"]
    database += ["@500000.0@4180001.0@99@N@.jpg", "@500000.0@4180002.0@frame@N@@@@@@@@@@@.jpg"]
    found = pair(tmp_path, database, ["@500000.0@4180000.0@9@.jpg"])
    assert listed(found.positives) == [[0, 1, 2, 3]]
    with pytest.raises(InputError, match=r"latitude band N of UTM zone 7N, found 4,180,000 m"):
        pair(tmp_path / "b", ["@500000.0@4180000.0@7@N@.jpg"], database)


@pytest.mark.parametrize("rest", ["", "front", "Front", "cam 1", "7"])
def test_n_as_a_hemisphere_beside_the_number_of_a_zone(tmp_path, rest):
    """EPSG writes "UTM zone 32N": no band of these metres, whatever follows in the name."""
    database = [f"@500000.0@5400000.0@{zone}@{rest}@.jpg" for zone in ("32N", "33N")]
    with pytest.raises(InputError, match=r"latitude band N of UTM zone 32N, found 5,400,000 m"):
        pair(tmp_path, database, database[1:])


def test_a_report_shows_one_plane(evaluate, tmp_path):
    """Positions of the other zone are not known on its map, nor in its distances."""
    database = [name(5e5, 54e5, zone, "U") for zone in ("32", "32", "33")]
    found = pair(tmp_path, database, [name(5e5, 54e5, "33", "U")])
    assert np.isfinite(found.database_utm).all(1).tolist() == [True, True, False]
    assert np.isnan(found.queries_utm).all()
    folders = tmp_path / "town" / "database", tmp_path / "town" / "queries"
    evaluate(*folders)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "500000" in text and '"metres"' in text


def test_degrees_on_one_side_only(tmp_path):
    """Photos of a phone in a database of UTM: none would have a positive."""
    queries = ["@37.77492@-122.41941@.jpg", "@37.78492@-122.40941@.jpg"]
    with pytest.raises(InputError, match="look like degrees"):
        pair(tmp_path, [in_degrees(37.77, -122.42), in_degrees(37.78, -122.41)], queries)


def test_a_radius_beyond_all_positions(tmp_path):
    """Its square is no float64."""
    write_images(tmp_path / "a", ["@500000@4180000@.jpg"])
    found = read_folder_pair(tmp_path / "a", tmp_path / "a", radius_m=1e300)
    assert listed(found.positives) == [[0]]


@pytest.mark.parametrize("end", [".jpg", "@.jpg"])
def test_a_name_may_end_after_the_metres(tmp_path, end):
    names = [f"@500000.25@4180000.75{end}", f"@500090.25@4180000.75{end}"]
    assert listed(pair(tmp_path, names, names[1:]).positives) == [[1]]


@pytest.mark.parametrize("part", ["1_0", "１", "nan", "inf", "0x1", "1e999", "1,5", ""])
def test_numbers_that_are_none(tmp_path, part):
    with pytest.raises(InputError, match="expected"):
        pair(tmp_path, [f"@{part}@4180000.0@.jpg"], ["@500000@4180000@.jpg"])


def test_positives_are_within_the_radius_inclusive():
    database = np.array([[0.0, 0.0], [25.0, 0.0], [25.01, 0.0], [-15.0, 20.0]])
    found = positives_within(np.array([[0.0, 0.0], [500.0, 0.0]]), database, 25)
    assert [indices.tolist() for indices in found] == [[0, 1, 3], []]
