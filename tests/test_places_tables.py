"""What tables of positions say of photos."""

from datetime import datetime

import numpy as np
import pytest
from utm import to_latlon

from mixvpr_jax.errors import InputError
from mixvpr_jax.exif import Taken
from mixvpr_jax.places.command import PlacesConfig, make_places
from mixvpr_jax.places.positions import find_positions


def taken_by(tmp_path, columns, *rows):
    """What a table of these columns says of p0v0.jpg, p0v1.jpg, …"""
    table = tmp_path / "table.csv"
    names = [f"p{i // 4}v{i % 4}.jpg" for i in range(len(rows))]
    lines = [f"{name},{row}" for name, row in zip(names, rows, strict=True)]
    table.write_text("\n".join([f"image,{columns}", *lines]))
    return find_positions(tmp_path, [tmp_path / name for name in names], str(table), None)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("lat,lon,heading,bearing", "48,11,90,-1"),
        ("lat,lon,bearing,heading", "48,11,180,90"),
        ("latitude,lat,lng,lon,heading", "0.84,48,0.2,11,90"),
        ("name,lat,lon,heading,path", "Main street,48,11,90,/home/me/p0v0.jpg"),
        ("notes,lat,lon,heading,notes,,", "a,48,11,90,b,,"),
        ("lat,lat_ref,lon,lon_ref,heading,compass", "48,N,11,E,90,W"),
    ],
)
def test_the_first_of_several_columns_counts(columns, row, tmp_path):
    assert taken_by(tmp_path, columns, row) == [Taken((48.0, 11.0), 90.0)]


@pytest.mark.parametrize(
    ("columns", "row"),
    [("date,time", "2026-01-02,12:00:00"), ("date,timestamp", "2019-01-01,2026-01-02T00:00:00")],
)
def test_times_beside_dates(columns, row, tmp_path):
    [taken] = taken_by(tmp_path, f"lat,lon,{columns}", f"48,11,{row}")
    assert taken.time == datetime(2026, 1, 2)


@pytest.mark.parametrize(
    ("headings", "found"),
    [
        (["-1", "90", "", "-1.0"], [None, 90, None, None]),
        (["0", "360", "359.5"], [0, 0, 359.5]),
        (["-1", "-90", "180"], [359, 270, 180]),
    ],
)
def test_headings_of_a_table(headings, found, tmp_path):
    rows = [f"48,11,{heading}" for heading in headings]
    taken = taken_by(tmp_path, "lat,lon,heading", *rows)
    assert [one.heading for one in taken] == found


@pytest.mark.parametrize("missing", ["", "nan", "NaT", "NA", "None", "NULL"])
def test_cells_without_a_heading_or_a_time(missing, tmp_path):
    [taken] = taken_by(tmp_path, "lat,lon,heading,time", f"48,11,{missing},{missing}")
    assert taken == Taken((48.0, 11.0))


@pytest.mark.parametrize(
    ("row", "position"),
    [
        ("0,0", None),
        ("0.0,-0.0", None),
        ("nan,NaN", None),
        ("NA,NA", None),
        ("None,null", None),
        ("0,1e-4", (0.0, 1e-4)),
        ("1e-4,0", (1e-4, 0.0)),
        ("0.004,-0.008", (0.004, -0.008)),  # of CARLA
        ("1.5,3.2", (1.5, 3.2)),
        ("-1.6,0.5", (-1.6, 0.5)),
    ],
)
def test_no_position_and_others_near_it(row, position, tmp_path):
    assert taken_by(tmp_path, "lat,lon", row) == [Taken(position)]


@pytest.mark.parametrize(
    ("zone", "north", "band"),
    [
        ("EPSG:32632", 5334005, "U"),
        ("epsg25832", 5334005, "U"),
        ("EPSG:32732", 6248138, "H"),
        ("UTM32U", 5334005, "U"),
        ("UTM zone 32N", 5334005, "U"),
    ],
)
def test_zones_by_their_codes_and_behind_the_word(zone, north, band, tmp_path):
    [taken] = taken_by(tmp_path, "east,north,zone", f"500005,{north},{zone}")
    assert taken.position == pytest.approx(to_latlon(500005, north, 32, band))
    for named in ("", "32", "UTM32"):
        photo = tmp_path / f"@500005@{north}@{named}@.jpg"
        assert find_positions(tmp_path, [photo], None, zone) == [taken]


@pytest.mark.parametrize("missing", ["", "NA", "None"])
def test_cells_without_a_zone(missing, tmp_path):
    (tmp_path / "t.csv").write_text(f"name,east,north,zone\na.jpg,500005,5334005,{missing}\n")
    [taken] = find_positions(tmp_path, [tmp_path / "a.jpg"], str(tmp_path / "t.csv"), "32U")
    assert taken.position == pytest.approx(to_latlon(500005, 5334005, 32, "U"))


@pytest.mark.parametrize("zone", ["32N", "32U"])
def test_n_may_be_the_northern_hemisphere(zone, tmp_path):
    [taken] = taken_by(tmp_path, "east,north,zone", f"500005,5334005,{zone}")
    position = to_latlon(500005, 5334005, 32, "U")
    assert np.allclose(taken.position, position, rtol=0, atol=1e-9)


TOKYO = 139.5  # nine hours and 18 minutes ahead of UTC, by the sun


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1795736700", datetime(2026, 11, 27, 9, 3)),  # 23:45 in UTC
        ("1795736700000", datetime(2026, 11, 27, 9, 3)),
        ("2026-11-26T23:45:00Z", datetime(2026, 11, 27, 9, 3)),
        ("2026-11-26T23:45:00+00:00", datetime(2026, 11, 27, 9, 3)),
        ("2026-11-27T08:45:00+09:00", datetime(2026, 11, 27, 8, 45)),
        ("2026-11-27T08:45:00", datetime(2026, 11, 27, 8, 45)),
        ("9999-12-31T23:00:00Z", datetime(9999, 12, 31, 23)),
    ],
)
def test_times_are_those_of_the_place(text, time, tmp_path):
    position = 35.6, TOKYO
    [taken] = taken_by(tmp_path, "lat,lon,time", f"35.6,{TOKYO},{text}")
    assert taken == Taken(position, None, time)
    # Without a position there is no place.
    [taken] = taken_by(tmp_path, "lat,lon,time", f",,{text}")
    assert taken.position is None and taken.time.tzinfo is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("201904", datetime(2019, 4, 1)),
        ("20190415", datetime(2019, 4, 15)),
        ("2019041523", datetime(2019, 4, 15, 23)),
        ("201904152359", datetime(2019, 4, 15, 23, 59)),
        ("20190415235958", datetime(2019, 4, 15, 23, 59, 58)),
        ("20190415t235958", datetime(2019, 4, 15, 23, 59, 58)),
        ("18930415", datetime(1893, 4, 15)),
        ("1893041523", datetime(2029, 12, 27, 4, 52, 3)),
    ],
)
def test_times_in_digits(text, time, tmp_path):
    [taken] = taken_by(tmp_path, "lat,lon,time", f"48,0,{text}")
    assert taken.time == time


@pytest.mark.parametrize(
    "text",
    [
        *("2019041524", "20190415120000.5", "2019041512000.5", "2019041512000,5"),
        *("230507", "230507100203", "100203"),  # years of two digits, hours
    ],
)
def test_digits_that_are_no_time(text, tmp_path):
    with pytest.raises(InputError, match=f"expected a time, .* found {text}"):
        taken_by(tmp_path, "lat,lon,time", f'48,0,"{text}"')


@pytest.mark.parametrize(
    ("table", "headings"),
    [
        ("image;lat;lon;heading\np0v0.jpg;48,5;11,25;359,5\n", [359.5, None]),
        ("image\tlat\tlon\np0v0.jpg\t48,5\t11,25\n", [None, None]),
        ('image,lat,lon\np0v0.jpg,"48,5","11,25"\n', [None, None]),
        ('"image", "lat", "lon"\n"p0v0.jpg", "48.5", "11.25"\n', [None, None]),
        ("image,lat,lon\rp0v0.jpg,48.5,11.25\r", [None, None]),
        ("image,lat,lon\r\np0v0.jpg,48.5,11.25\r\n,,\r\n,,\r\n", [None, None]),
    ],
)
def test_tables_as_programs_write_them(table, headings, tmp_path):
    (tmp_path / "t.csv").write_bytes(table.encode())
    paths = [tmp_path / "p0v0.jpg", tmp_path / "p0v1.jpg"]
    found = find_positions(tmp_path, paths, str(tmp_path / "t.csv"), None)
    assert [one.position for one in found] == [(48.5, 11.25), None]
    assert [one.heading for one in found] == headings


@pytest.mark.parametrize(
    "titles",
    [
        "Image Name,Latitude,LONG",
        "image_path,lat.,lng",
        "imagename,latitude [decimal degrees],longitude [decimal degrees]",
        "#img,lat,long",
    ],
)
def test_titles_in_other_forms(titles, tmp_path):
    (tmp_path / "t.csv").write_text(f"{titles}\na.jpg,48.5,11.25\n", encoding="utf-8")
    [found] = find_positions(tmp_path, [tmp_path / "a.jpg"], str(tmp_path / "t.csv"), None)
    assert found.position == (48.5, 11.25)


@pytest.mark.parametrize("titles", ["heading (rad)", "heading [rad]", "bearing_rad"])
def test_titles_with_other_units_are_not_read(titles, tmp_path):
    [found] = taken_by(tmp_path, f"lat,lon,{titles}", "48,11,1.5")
    assert found.heading is None


def test_a_photo_by_two_names(tmp_path):
    photo = tmp_path / "photos" / "a.jpg"
    (tmp_path / "t.csv").write_text(f"image,lat,lon\nphotos/a.jpg,48,11\n{photo},49,12\n")
    with pytest.raises(InputError, match="expected names relative to"):
        find_positions(photo.parent, [photo], str(tmp_path / "t.csv"), None)


@pytest.mark.parametrize("folder", ["x", "epsg25832", "epsg31468"])
def test_a_zone_that_is_given_counts_before_the_code_of_another_grid(folder, tmp_path):
    photo = tmp_path / folder / "@500000.0@5300000.0@.jpg"
    [found] = find_positions(tmp_path, [photo], None, "32U")
    assert found.position == pytest.approx(to_latlon(500000, 5300000, 32, "U"))


@pytest.mark.parametrize("root", ["{}/", "photos/", "./photos/", "photos\\"])
def test_names_from_another_folder_on(root, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    row = f"{root.format(photos)}b/c.jpg,48.5,11.25"
    (tmp_path / "t.csv").write_text(f"image,lat,lon\n{row}\n", encoding="utf-8")
    [found] = find_positions(photos, [photos / "b/c.jpg"], str(tmp_path / "t.csv"), None)
    assert found.position == (48.5, 11.25)


@pytest.mark.parametrize(
    ("photos", "rows", "found"),
    [
        (["a/é.jpg"], ["a\\é.jpg"], [0]),
        (["a/é.jpg"], [".\\a\\e\u0301.jpg"], [0]),
        (["e\u0301.jpg", "b.jpg"], ["é.jpg", "b.jpg"], [0, 1]),
        (["é.jpg", "e\u0301.jpg"], ["e\u0301.jpg", "é.jpg"], [1, 0]),
        (["é.jpg"], ["e\u0301.jpg", "é.jpg"], [1]),  # another photo's row is left out
        (["a\\b.jpg", "a/b.jpg"], ["a\\b.jpg"], [0, None]),
        (["a\\b.jpg", "c.jpg"], ["a\\b.jpg"], [0, None]),
    ],
)
def test_names_in_other_forms(photos, rows, found, tmp_path):
    lines = [f"{name},48,{row}" for row, name in enumerate(rows, 1)]
    (tmp_path / "t.csv").write_text("\n".join(["image,lat,lon", *lines]), encoding="utf-8")
    paths = [tmp_path / name for name in photos]
    taken = find_positions(tmp_path, paths, str(tmp_path / "t.csv"), None)
    assert [one.position and one.position[1] - 1 for one in taken] == found


@pytest.mark.parametrize(
    ("title", "missing", "known"),
    [
        *((title, "heading", "time") for title in ("yaw", "compass_angle", "ca")),
        *((title, "time", "heading") for title in ("captured_at", "GPSTime")),
    ],
)
def test_headings_and_times_by_another_title_are_told(title, missing, known, tmp_path, caplog):
    value = {"time": "2026-01-02", "heading": "180"}[known]
    [taken] = taken_by(tmp_path, f"lat,lon,{title},{known}", f"48,11,90,{value}")
    assert getattr(taken, missing) is None
    assert f"no {missing}, as no column is called " in caplog.text
    assert f"(not read: {title.lower()})" in caplog.text and f"no {known}" not in caplog.text
    caplog.clear()
    taken_by(tmp_path, f"lat,lon,{title},time,heading", "48,11,90,2026-01-02,180")
    taken_by(tmp_path, "lat,lon", "48,11")
    assert not caplog.text


@pytest.mark.parametrize(
    ("headings", "told"),
    [
        (["0.01", "3.1", "6.28"], True),  # as in Boreas' camera_poses.csv
        (["-3.14", "-1", "0.5"], True),
        (["-1", "0.5", "1.6"], True),  # of which the first is none, or a radian west of north
        (["0.5", "1.4"], False),
        (["0", "3", "6"], False),
        (["-1", "-1", ""], False),
        (["0.5", "6.3"], False),
        (["-3.2", "0"], False),
    ],
)
def test_headings_that_may_be_radians_are_told(headings, told, tmp_path, caplog):
    taken_by(tmp_path, "lat,lon,heading", *(f"48,11,{heading}" for heading in headings))
    assert ("convert them if they are radians" in caplog.text) is told


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("photo,lat\na,1", "expected columns image, lat and lon .*, found photo, lat"),
        ("", "expected columns image, lat and lon .*, found none"),
        ("name,lat,lon\np0v0.jpg,48,1,11,5", "line 2: expected 3 cells, found 5; write decimals"),
        ("name,lat,lon\np0v1.jpg,48,11,\np0v0.jpg,48,11,,N", "line 3: expected 3 cells, found 5"),
        ("name,lat,lon,lat\np0v0.jpg,1,2,3", "expected each column once, found lat again"),
        ("name,lat,lon\np0v0.jpg,91,0", "line 2: expected latitude and longitude .* 91, 0"),
        ("name,lat,lon\np0v0.jpg,nan,0", "line 2: expected latitude and longitude"),
        ("name,lat,lon\np0v0.jpg,5000005,500005", "line 2: expected latitude and longitude"),
        ("name,lat,lon\np0v0.jpg,48,", "line 2: expected two numbers, found 48, "),
        ("name,lat,lon\np0v0.jpg,1,2\np0v0.jpg,1,2", "line 3: expected each photo once"),
        ("name,lat,lon,heading\np0v0.jpg,1,2,north", "line 2: expected a heading .* north"),
        ("name,lat,lon,time\np0v0.jpg,1,2,noon", "line 2: expected a time, .* found noon"),
        ("name,lat,lon,time\np0v0.jpg,1,2,123", "line 2: expected a time, .* found 123"),
        ("name,lat,lon\n,1,2", "line 2: expected each photo once, found no name"),
        ("name,lat,lon\nq.jpg,48,2", "expected names relative to .* found q.jpg"),
        ("name,east,north\np0v0.jpg,1,2", "expected the UTM zone of metres"),
        ("name,east,north,zone\np0v0.jpg,48.1,11.5,32U", "expected metres of UTM zone 32U"),
        *(  # metres of national grids: Swiss, Dutch, British, French
            (
                f"name,east,north,zone\np0v0.jpg,{east},{north},{zone}",
                f"metres of UTM zone {zone}, found {east}, {north}: .*{why}",
            )
            for east, north, zone, why in (
                (2600000, 1200000, "32T", "easting out of range"),
                (120000, 480000, "31U", "far from band U, as of a national grid; convert them"),
                (530000, 180000, "30U", "far from band U"),
                (652000, 6862000, "31U", "far from band U"),
            )
        ),
        ("name,east,north,zone\np0v0.jpg,5e5,5e6,32I", "expected a UTM zone with its band"),
        ("name,east,north,zone\np0v0.jpg,5e5,2e5,EPSG:27700", "with its band, .* found EPSG27700"),
        *(
            (
                f"name,east,north,zone\np0v0.jpg,{east},{north},{zone}",
                f"band S .* zone {zone[-3:]}, found a northing of {north:,} m; south of",
            )
            for east, north, zone in (
                (261878, 6243186, "34S"),
                (371000, 4109000, "19S"),  # Punta Arenas; by the band it is the Atlantic
                (441000, 4272000, "UTM21S"),
            )
        ),
        (
            'name,lat,lon\n"p0v0.jpg,1,2\np0v1.jpg,1,2',
            "line 1: expected comma-separated values",
        ),
        (  # of Applanix, as in Boreas' gps_post_process.csv
            "name,latitude,longitude\np0v0.jpg,0.764,-1.387\np0v1.jpg,,\np0v2.jpg,0.7639,-1.3868",
            r"table.csv: expected .* degrees, found what look like radians \(0.764, -1.387\)",
        ),
        ("name,lat,lon\np0v0.jpg,0.097,-0.003", "look like radians"),  # Accra
        *(  # of EXIF and NMEA
            (f"name,lat,{one},lon,{other}\np0v0.jpg,{row}", f"line 2: .* below 0, found {found}")
            for one, other, row, found in (
                ("lat_ref", "lon_ref", "33.8,S,18.4,E", "33.8 with S in column latref"),
                ("N/S", "E/W", "37.8,N,122.4,w", "122.4 with w in column ew"),
                ("GPSLatitudeRef", "GPSLongitudeRef", "-33.8,South,70.9,West", "70.9 with West"),
                ("lat hemisphere", "lng_dir", "33.8,South,-70.9,West", "33.8 with South"),
                ("N/S Indicator", "E/W Indicator", "37.8,N,122.4,W", "122.4 with W"),
            )
        ),
        ("name,lat,lon\np0v0.jpg,,", "expected photos with a position .* none among 14"),
        (
            "name,lat,lon\np0v0.jpg,48,1",
            "expected 2 places of 4 photos .* .1 of 14 photos have a position",
        ),
    ],
)
def test_a_wrong_table(lines, message, streets, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(lines)
    config = PlacesConfig(output=str(tmp_path / "data"), positions=str(table))
    with pytest.raises(InputError, match=message):
        make_places(streets, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["My streets", "table.csv"]
