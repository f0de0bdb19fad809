"""GSV-Cities' tables: names, places, and what is wrong with some."""

import re
import unicodedata

import numpy as np
import pytest
from etils import epath
from stores import put
from tables import names_of, row, write_city, write_table

from mixvpr_jax.data.config import GSV_CITIES, DataConfig
from mixvpr_jax.data.gsv_cities import COLUMNS, read_places
from mixvpr_jax.data.sources import open_folder, open_source
from mixvpr_jax.errors import InputError, run_command
from mixvpr_jax.listing import sizes_in


def images_of(places, place):
    return [places.name(image) for image in range(*places.bounds[place : place + 2])]


def test_names_as_the_table_writes_them(tmp_path):
    write_table(tmp_path, "Rome", [row(12), row(12, panoid="x-_9"), row(3, month=11)])
    places = read_places(tmp_path, ["Rome"])
    assert places.place_id.tolist() == [3, 12]
    assert images_of(places, 0) == ["Images/Rome/Rome_0000003_2012_11_007_41.9_12.50_abc.jpg"]
    assert images_of(places, 1)[1] == "Images/Rome/Rome_0000012_2012_03_007_41.9_12.50_x-_9.jpg"
    assert places.row.tolist() == [2, 0, 1]


def test_columns_may_come_in_any_order(tmp_path):
    columns = (*COLUMNS[::-1], "note")
    write_table(tmp_path, "Rome", [(*row(4)[::-1], "fine")], columns)
    assert images_of(read_places(tmp_path, ["Rome"]), 0) == names_of(tmp_path)


def test_places_with_few_images_are_left_out(tmp_path):
    write_table(tmp_path, "Rome", [row(1), row(2), row(2, panoid="b")])
    places = read_places(tmp_path, ["Rome"], min_images=2)
    assert places.place_id.tolist() == [2]
    assert len(images_of(places, 0)) == 2
    with pytest.raises(InputError, match="of 3 images or more in each city, found none in Rome"):
        read_places(tmp_path, ["Rome"], min_images=3)


def test_age_is_by_month_and_then_from_the_north(tmp_path):
    rows = [
        row(1, panoid="old", year=2010, month=12),
        row(1, panoid="south", year=2015, month=5, lat="41.90001"),
        row(1, panoid="north", year=2015, month=5, lat="41.90002"),
        row(1, panoid="new", year=2016, month=1),
    ]
    write_table(tmp_path, "Rome", rows)
    assert read_places(tmp_path, ["Rome"]).age.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("north", [0, 1])
def test_a_month_that_is_not_known_comes_before_january(tmp_path, north):
    when = [(2018, 0), (2017, 12), (2018, 1)]
    rows = [
        row(1, panoid=f"p{i}", year=year, month=month, lat=f"41.9000{(i + north) % 2}")
        for i, (year, month) in enumerate(when)
    ]
    write_table(tmp_path, "Rome", rows)
    assert read_places(tmp_path, ["Rome"]).age.tolist() == [1, 2, 0]


def test_files_of_other_programs_are_no_tables(tmp_path):
    write_table(tmp_path, "Rome", [row(1)])
    for name in ("~$Rome.csv", "._Rome.csv"):
        (tmp_path / "Dataframes" / name).write_bytes(b"\x05\x16\x07me")
    assert read_places(tmp_path).cities == ("Rome",)
    (tmp_path / "Dataframes" / "Oslo.CSV").touch()
    assert read_places(tmp_path, ["Rome"]).cities == ("Rome",)
    with pytest.raises(InputError, match=r"Oslo\.CSV: expected tables that end in \.csv; rename"):
        read_places(tmp_path)


@pytest.mark.parametrize("cities", [(), ("Rome",)])
def test_a_folder_around_the_data_or_beside_it(tmp_path, cities):
    data = write_city(tmp_path / "outer" / "gsv_cities")
    for root in (data.parent, data.with_name("gsvcities")):
        line = rf"{root}: expected GSV-Cities .*, found no .*; closest: {data}$"
        with pytest.raises(InputError, match=line):
            open_source(DataConfig(root, cities))


@pytest.mark.parametrize("cities", [(), ("Rome",)])
@pytest.mark.parametrize("name", ["gsv [v2]", "*", "gsv?"])
def test_a_folder_whose_name_could_be_a_pattern(tmp_path, name, cities):
    write_city(tmp_path / "gsv 2", "Oslo")
    root = write_city(tmp_path / name)
    assert open_source(DataConfig(root, cities, 2, 2, 2)).places.cities == ("Rome",)
    version = tmp_path / name / "prepared" / "0.9.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="expected version .* prepared data set, found 0.9.0"):
        open_source(DataConfig(version.parent, cities, 2, 2, 2))


def test_the_generated_town_is_read(town):
    places = read_places(town / "train", ["Avalon", "Brigadoon"])
    assert places.cities == ("Avalon", "Brigadoon")
    assert places.city.tolist() == [0] * 7 + [1] * 7
    assert places.counts.tolist() == [5] * 14
    assert all((town / "train" / places.name(image)).is_file() for image in range(70))


def test_an_image_named_twice_is_kept_once(tmp_path, caplog):
    write_table(tmp_path, "Rome", [row(1), row(1, panoid="b"), row(1)])
    assert len(read_places(tmp_path, ["Rome"]).names) == 2
    assert "1 rows name an image again; kept once" in caplog.text


@pytest.mark.parametrize(
    ("cities", "message"),
    [
        (["Rom"], r"Rom\.csv: no such city; closest: Rome"),
        (["Rome", "Rome"], r"cities: expected each once, found Rome, Rome"),
        (["Rome", "ROME"], r"cities: expected each once, found Rome, ROME"),
        (["Rome", "Roma"], r"Roma\.csv: expected a city of its own, found Rome, which is"),
        (["Bad"], r"Bad\.csv: expected columns panoid, separated by commas, found 'place_id,"),
        (["Void"], r"Void\.csv: expected columns place_id, .*, found ''"),
        (["Excel"], r"Excel\.csv: expected columns place_id, .*, found 'place_id;year;month;north"),
        (["Half"], r"Half\.csv: line 2: expected numbers, whole but for lat and lon, .*'7\.5'"),
        (["Bare"], r"expected places of 1 images or more in each city, found none in Bare"),
        (["Worse"], r"Worse\.csv: line 3: expected numbers, .*found .*'x'"),
        (["Short"], r"Short\.csv: line 2: expected numbers, .*found"),
        (["Latin"], r"Latin\.csv: expected text in UTF-8"),
        (["Two"], r"Two\.csv: expected a place for each place_id, found images of place 5 that lie "
                  r"11\.1 km apart"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path, cities, message):
    write_table(tmp_path, "Rome", [row(1)])
    write_table(tmp_path, "Roma", [row(1)])
    write_table(tmp_path, "Bad", [], COLUMNS[:-1])
    (tmp_path / "Dataframes" / "Void.csv").write_text("")
    write_table(tmp_path, "Excel", [], (";".join(COLUMNS),))
    write_table(tmp_path, "Half", [row(1, northdeg=7.5)])
    write_table(tmp_path, "Bare", [])
    write_table(tmp_path, "Worse", [row(1), row(1, year="x")])
    write_table(tmp_path, "Short", [(4, 2012)])
    (tmp_path / "Dataframes" / "Latin.csv").write_bytes(b"\xe9,\n")
    write_table(tmp_path, "Two", [row(5), row(5, panoid="b", lat="42.0")])
    with pytest.raises(InputError, match=message):
        read_places(tmp_path, cities)


def test_tables_as_spreadsheets_write_them(tmp_path):
    """A mark before the header, blank lines, carriage returns."""
    write_table(tmp_path, "Rome", [row(1), row(2), row(3)])
    path = tmp_path / "Dataframes" / "Rome.csv"
    plain = read_places(tmp_path, ["Rome"])
    header, first, *others = path.read_text().splitlines()
    lines = [header, "", first, ",,,,,,,", *others, "", ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = read_places(tmp_path, ["Rome"])
    assert found.names.tolist() == plain.names.tolist()
    assert found.row.tolist() == plain.row.tolist() == [0, 1, 2]
    path.write_text("\n".join([*lines, "4,x"]) + "\n")
    with pytest.raises(InputError, match=r"Rome\.csv: line 9: expected numbers, .*found \['4'"):
        read_places(tmp_path, ["Rome"])


@pytest.mark.parametrize(
    ("latitude", "east", "too_wide"),
    [("0", 0.0089, False), ("0", 0.0091, True), ("-60", 0.0178, False), ("60", 0.0182, True)],
)
def test_degrees_of_longitude_shrink_towards_the_poles(tmp_path, latitude, east, too_wide):
    """A place is a kilometre wide at most: 0.009 degrees at the equator, twice as many at 60."""
    rows = [row(5, lat=latitude, lon=lon, panoid=lon) for lon in ("10", f"{10 + east:.4f}")]
    write_table(tmp_path, "Rome", rows)
    if too_wide:
        with pytest.raises(InputError, match=r"images of place 5 that lie 1\.0 km apart"):
            read_places(tmp_path, ["Rome"])
    else:
        assert len(read_places(tmp_path, ["Rome"]).names) == 2


def config(root, **changes):
    return DataConfig(root, ("Rome",), 2, 2, 2, **changes)


def test_missing_images_are_all_listed(tmp_path, capsys):
    names = names_of(write_city(tmp_path))
    for name in names[1:4]:
        (tmp_path / name).unlink()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: open_source(config(tmp_path)))
    assert ended.value.code == 2
    *listed, line = capsys.readouterr().err.splitlines()
    assert listed == [f"missing: {name}" for name in names[1:4]]
    assert re.fullmatch(r"error: .*expected 12 images, found 3 missing, the first .*", line)
    assert "skip-missing" in line
    (tmp_path / "Images").rename(tmp_path / "images elsewhere")
    with pytest.raises(InputError, match=rf"expected images such as {names[0]}, found none of t"):
        open_source(config(tmp_path))


def test_missing_images_are_skipped_where_wanted(tmp_path, caplog):
    names = names_of(write_city(tmp_path))
    for name in names[1:4]:
        (tmp_path / name).unlink()
    places = open_source(config(tmp_path, skip_missing=True)).places
    assert places.place_id.tolist() == [1, 2]  # one image is none
    assert images_of(places, 0) == names[4:8]
    assert "3 missing images left out" in caplog.text
    for name in names[4:]:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="places of 2 images or more in each city, found none in"):
        open_source(config(tmp_path, skip_missing=True))


@pytest.mark.parametrize("ending", [".JPG", ".png", ".jpeg", ".Jpeg", ".webp"])
def test_images_of_other_formats(tmp_path, ending):
    names = names_of(write_city(tmp_path))
    for name in names[::2]:
        (tmp_path / name).rename((tmp_path / name).with_suffix(ending))
    (tmp_path / names[1]).with_suffix(ending).write_text("beside the .jpg")
    expected = {name if index % 2 else name[:-4] + ending for index, name in enumerate(names)}
    assert {n.decode() for n in open_source(config(tmp_path)).places.names} == expected


def put_images(root, names, folder="Images/Rome"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / f"{name}.jpg").write_bytes(name.encode())


def found_in(root, **options):
    """The names of the images that a folder's tables say, once all are there."""
    options = {"min_images": 1, "skip_missing": False} | options
    source, num_skipped = open_folder(epath.Path(root), ["Rome"], **options)
    assert [source.read(image) for image in range(len(source.places.names))]
    names = [source.places.name(image) for image in range(len(source.places.names))]
    return [name.removeprefix("Images/Rome/").removesuffix(".jpg") for name in names], num_skipped


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"lat": "040.44312", "lon": "-079.99000"}, "Rome_0000004_2012_03_007_40.44312_-79.99_abc"),
        ({"lat": "13.70", "lon": "+12.50"}, "Rome_0000004_2012_03_007_13.7_12.5_abc"),
        ({"lat": " 41.9", "lon": "12.50 "}, "Rome_0000004_2012_03_007_41.9_12.5_abc"),
        ({"lat": "41", "lon": "-0.0"}, "Rome_0000004_2012_03_007_41.0_-0.0_abc"),
        ({"lat": "0.00001", "lon": "4.19e1"}, "Rome_0000004_2012_03_007_1e-05_41.9_abc"),
        ({"lat": "41.900000000000000001"}, "Rome_0000004_2012_03_007_41.9_12.5_abc"),
        ({"lat": "41.90000000000001"}, "Rome_0000004_2012_03_007_41.90000000000001_12.5_abc"),
        ({"lat": "41.9", "lon": "12.50"}, "Rome_0000004_2012_03_007_41.9_12.50_abc"),
        ({"northdeg": "10.0"}, "Rome_0000004_2012_03_010_41.9_12.5_abc"),
        ({"northdeg": "10.0"}, "Rome_0000004_2012_03_10.0_41.9_12.5_abc"),
        ({"northdeg": "10.0"}, "Rome_0000004_2012_03_10.0_41.9_12.50_abc"),
        ({"northdeg": "10.0"}, "Rome_0000004_2012_03_010_41.9_12.50_abc"),
        ({"northdeg": " +10 "}, "Rome_0000004_2012_03_010_41.9_12.5_abc"),
        ({"northdeg": "1e2"}, "Rome_0000004_2012_03_100_41.9_12.5_abc"),
        ({"northdeg": ""}, "Rome_0000004_2012_03_nan_41.9_12.5_abc"),
        ({"northdeg": ""}, "Rome_0000004_2012_03_000_41.9_12.50_abc"),
        ({"northdeg": "nan"}, "Rome_0000004_2012_03_nan_41.9_12.50_abc"),
        ({"year": "2024.0", "month": "9.0"}, "Rome_0000004_2024_09_007_41.9_12.5_abc"),
        ({"year": "2024.0", "month": "09"}, "Rome_0000004_2024_09_007_41.9_12.50_abc"),
        ({"place": "4.0"}, "Rome_0000004_2012_03_007_41.9_12.50_abc"),
        ({"place": "0300004"}, "Rome_0000004_2012_03_007_41.9_12.5_abc"),
        ({"place": 300004}, "Rome_0000004_2012_03_007_41.9_12.50_abc"),
        ({"place": 300004}, "Rome_0300004_2012_03_007_41.9_12.50_abc"),
        ({"place": 300004}, "Rome_0300004_2012_03_007_41.9_12.5_abc"),
    ],
)
def test_images_are_named_by_the_text_or_by_the_number(tmp_path, values, name):
    """The official loader prints what pandas parsed; other makers of tables copy their text."""
    values = dict(values)
    write_table(tmp_path, "Rome", [row(values.pop("place", 4), **values)])
    put_images(tmp_path, [name])
    assert found_in(tmp_path) == ([name], 0)


@pytest.mark.parametrize("column", ["place", "year", "month", "northdeg"])
@pytest.mark.parametrize("value", ["1.5", "1e400", "x", "1 0", str(2.0**60)])
def test_numbers_that_are_not_whole(tmp_path, column, value):
    values = {column: value}
    write_table(tmp_path, "Rome", [row(values.pop("place", 4), **values)])
    with pytest.raises(InputError, match=r"line 2: expected numbers, .*found"):
        read_places(tmp_path, ["Rome"])


@pytest.mark.parametrize(
    "values", [{"lat": "90.1"}, {"lat": "-91"}, {"lon": "180.1"}, {"lon": "nan"}]
)
def test_degrees_that_there_are_not(tmp_path, values):
    write_table(tmp_path, "Rome", [row(4, **values)])
    with pytest.raises(InputError, match=r"line 2: expected numbers, .*found"):
        read_places(tmp_path, ["Rome"])
    write_table(tmp_path, "Rome", [row(4, lat="-90", lon="180")])
    assert len(read_places(tmp_path, ["Rome"])) == 1


def test_names_of_both_kinds_in_one_table(tmp_path):
    """Each row's image by the name that is there; one of two rows that mean the same file."""
    rows = [row(1, panoid=letter, lat="41.90") for letter in "abc"]
    write_table(tmp_path, "Rome", [*rows, row(1, panoid="a", lat="41.9")])
    names = [f"Rome_0000001_2012_03_007_{lat}_abc"[:-3] for lat in ("41.9_12.5", "41.90_12.50")]
    names = [f"{names[0]}a", f"{names[1]}b", f"{names[0]}c"]
    put_images(tmp_path, names)
    assert sorted(found_in(tmp_path)[0]) == sorted(names)


def test_each_row_by_a_form_of_its_own(tmp_path):
    """A table that was put together of several: floats, ids of two kinds, text."""
    rows = [row(300001, panoid=letter, lat="041.90", northdeg="10.0") for letter in "abcd"]
    write_table(tmp_path, "Rome", rows)
    forms = ("0000001_2012_03_010_41.9_12.5_a", "0000001_2012_03_10.0_41.9_12.5_b")
    forms += ("0300001_2012_03_010_41.9_12.5_c", "0300001_2012_03_010_041.90_12.50_d")
    put_images(tmp_path, names := [f"Rome_{form}" for form in forms])
    assert found_in(tmp_path)[0] == names


def test_missing_images_are_told_by_the_name_that_others_have(tmp_path):
    write_table(tmp_path, "Rome", [row(1, panoid=letter, lat="041.90") for letter in "abcd"])
    named = [f"Rome_0000001_2012_03_007_41.9_12.5_{letter}" for letter in "abcd"]
    put_images(tmp_path, named[:3])
    with pytest.raises(InputError, match="expected 4 images, found 1 missing") as caught:
        found_in(tmp_path)
    assert caught.value.details == (f"missing: Images/Rome/{named[3]}.jpg",)
    assert found_in(tmp_path, skip_missing=True) == (named[:3], 1)
    assert found_in(tmp_path, skip_missing=True, min_images=3) == (named[:3], 1)


def test_links_by_the_official_name_are_looked_at_too(tmp_path):
    write_table(tmp_path / "data", "Rome", [row(1, lat="041.90")])
    (tmp_path / "data" / "Images" / "Rome").mkdir(parents=True)
    (tmp_path / "elsewhere.jpg").write_bytes(b"")
    link = tmp_path / "data" / "Images" / "Rome" / "Rome_0000001_2012_03_007_41.9_12.5_abc.jpg"
    link.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(InputError, match="inside the data folder, found a link to"):
        found_in(tmp_path / "data")


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_accents_of_one_character_or_two(tmp_path, on_disk, in_table, asked):
    """A disk of macOS may spell a name otherwise than the table, or than the command line."""
    disk, table, city = (unicodedata.normalize(f, "São José") for f in (on_disk, in_table, asked))
    rows = [row(place, table, f"é{place}{letter}") for place in (1, 2) for letter in "ab"]
    write_table(tmp_path, disk, rows)
    names = [unicodedata.normalize(on_disk, name) for name in names_of(tmp_path, disk)]
    (tmp_path / names[0]).parent.mkdir(parents=True)
    for name in names:
        (tmp_path / name).write_text(name)
    source = open_source(DataConfig(tmp_path, (city,), 2, 2, 2))
    assert source.places.cities == (disk,)
    assert [source.read(image).decode() for image in range(4)] == names
    assert open_source(DataConfig(tmp_path, (), 2, 2, 2)).places.names.tolist() == (
        source.places.names.tolist()
    )
    with pytest.raises(InputError, match="cities: expected each once"):
        read_places(tmp_path, [unicodedata.normalize(f, city) for f in ("NFC", "NFD")])


def test_names_that_differ_in_their_accents_alone(tmp_path):
    """Each by its own spelling, where a disk has both."""
    letters = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    write_table(tmp_path, "Rome", [row(1, panoid=letter) for letter in letters])
    put_images(tmp_path, names := [f"Rome_0000001_2012_03_007_41.9_12.50_{at}" for at in letters])
    if len(list((tmp_path / "Images" / "Rome").iterdir())) == 2:
        assert found_in(tmp_path)[0] == names


def test_a_single_place_has_nothing_to_be_told_from(tmp_path):
    write_city(tmp_path, places=1)
    line = f"{tmp_path}: expected 2 places or more, found 1: there are no negatives; add to data"
    with pytest.raises(InputError, match=line):
        open_source(config(tmp_path))


@pytest.mark.parametrize("places, is_told", [(3, True), (4, False), (5, True)])
def test_a_last_batch_of_one_place_is_told(tmp_path, caplog, places, is_told):
    open_source(config(write_city(tmp_path, places=places)))
    line = "the last batch of each epoch holds one place and no negatives"
    assert (line in caplog.text) == is_told


def test_official_cities():
    assert len(set(GSV_CITIES)) == 23


def test_an_object_store(tmp_path, bucket):
    """gs:// goes by way of epath and fsspec; here to a store in memory."""
    folder = write_city(tmp_path)
    address = put(folder, bucket / "gsv_cities")
    local, remote = open_source(config(folder)), open_source(config(address))
    assert np.array_equal(local.places.names, remote.places.names)
    for image in range(12):
        assert remote.read(image) == local.read(image)
    there = "Images/Rome"
    assert sizes_in(epath.Path(address) / there) == sizes_in(epath.Path(folder) / there)
    (bucket / "gsv_cities" / names_of(folder)[3]).unlink()
    with pytest.raises(InputError, match=r"gs:/+bucket/gsv_cities: .* found 1 missing"):
        open_source(config(address))
