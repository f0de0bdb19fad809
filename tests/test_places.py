"""Training data of one's own photos."""

import csv
import json
import shutil
from datetime import datetime

import numpy as np
import pytest
from exif import jpeg_taken
from folders import write_images
from streets import at
from utm import from_latlon, to_latlon

from mixvpr_jax import InputError
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.sources import open_source
from mixvpr_jax.exif import Taken
from mixvpr_jax.places.command import PlacesConfig, make_places
from mixvpr_jax.places.grouping import group

USUAL = {
    "radius_m": 5.0,
    "heading_degrees": 60.0,
    "apart_m": 40.0,
    "min_images": 4,
    "min_days": 1,
}


def around(latitude, longitude, count=4):
    """Photos within a metre of a point, some of them on its other sides."""
    turns = np.arange(count) * 2.4
    step = 4e-6 * np.stack([np.sin(turns), np.cos(turns)], 1)
    return [Taken((latitude + y, (longitude + x + 180) % 360 - 180)) for y, x in step.tolist()]


def grouped(taken, **options):
    places = group(taken, **(USUAL | options))
    return {(place.city, place.place_id): set(place.photos) for place in places}


# Places -------------------------------------------------------------------------------------------


def test_places_of_a_street():
    """Every 2 m a photo, for 100 m: ten places, of which those 40 m apart share a city."""
    found = grouped([at(500000.5 + 2 * i, 5000003.0) for i in range(50)])
    assert sorted(map(sorted, found.values())) == [list(range(i, i + 5)) for i in range(0, 50, 5)]
    for city in {city for city, _ in found}:
        starts = sorted(min(photos) for (of, _), photos in found.items() if of == city)
        assert min(np.diff(starts)) * 2 >= 40
    # Two cities of two and more: places alone in a city would have no negatives.
    assert all(sum(of == city for of, _ in found) >= 2 for city in {city for city, _ in found})


def test_headings_around_north():
    """355 and 5 degrees look the same way, 170 another; both are places of one city."""
    headings = [355, 5, 359.9, 0, 360 - 29, 170, 180, 190, 200]
    far = [at(500505, 5000005, heading=90) for _ in range(4)]
    found = grouped([at(500005, 5000005, heading=heading) for heading in headings] + far)
    assert sorted(map(sorted, found.values())) == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert {city for city, _ in found} == {0}
    # 0 degrees shares what it sees with 60 and 300, which do not share it with each other.
    headings = [0] * 4 + [60] * 4 + [300] * 4
    found = grouped([at(500005, 5000005, heading=heading) for heading in headings] + far)
    alike = [{min(photos) for (of, _), photos in found.items() if of == city} for city in (0, 1)]
    assert alike == [{0, 12}, {4, 8}]


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (48.00002, 12.0),  # zones 32 and 33
        (-17.00002, 180.0),  # zones 60 and 1, at the date line
        (0.0, 9.00003),  # both hemispheres
        (60.00001, 3.0),  # where Norway's zone is wider
    ],
)
def test_a_place_across_a_border_is_one(latitude, longitude):
    """Forty photos within a metre or two, as if there were no border, and another place."""
    found = grouped(around(latitude, longitude, 40) + around(latitude + 0.01, longitude, 8))
    assert found == {(0, 0): {*range(40)}, (0, 1): {*range(40, 48)}}
    assert len({from_latlon(*one.position)[2:] for one in around(latitude, longitude, 40)}) == 2


def test_what_too_few_photos_or_days_show_is_left_out():
    days = [datetime(2026, 11, day, 12) for day in (1, 1, 1, 2)]
    once = [at(500005, 5000005, time=days[0]) for _ in days]
    twice = [at(500105 + 100 * i, 5000005, time=time) for i in range(2) for time in days]
    few = [at(501005, 5000005, time=days[0])] * 3
    assert len(grouped(once + twice + few)) == 3
    assert list(grouped(once + twice + few, min_days=2).values()) == [
        {*range(4, 8)},
        {*range(8, 12)},
    ]
    assert len(grouped(once + twice + few, min_images=3)) == 4
    assert grouped(once + twice, min_images=5) == {}
    assert grouped(once) == {}, "one place has no negatives"


@pytest.mark.parametrize("scatter_m", [0.0, 0.2, 3.0, 12.0])
@pytest.mark.parametrize("heading_degrees", [40.0, 180.0, 360.0])
def test_the_next_place_is_that_of_the_photo_with_the_most_others(scatter_m, heading_degrees):
    """Counted photo by photo, of two equal spots, so that each place shares its city with one."""
    rng = np.random.default_rng(round(scatter_m + heading_degrees))
    metres = np.tile(rng.normal(500500, scatter_m, (60, 2)), (2, 1))
    metres[60:] += 1000
    headings = np.tile(rng.integers(0, 36, 60) * 10.0, 2)
    known = np.tile(rng.random(60) > 0.2, 2)
    taken = [
        at(*position, heading=heading if has_one else None)
        for position, heading, has_one in zip(metres.tolist(), headings, known, strict=True)
    ]
    turns = np.abs((headings - headings[:, None] + 180) % 360 - 180)
    alike = np.where(known & known[:, None], turns <= heading_degrees / 2, known == known[:, None])
    alike &= np.linalg.norm(metres - metres[:, None], axis=-1) <= 5.0
    free, expected = np.ones(120, bool), set()
    while free.any():
        around = alike & free & free[:, None]
        photos = np.flatnonzero(around[around.sum(1).argmax()])
        free[photos] = False
        expected.add(frozenset(photos.tolist()))
    found = grouped(taken, heading_degrees=heading_degrees, apart_m=1e-3, min_images=1)
    assert {frozenset(photos) for photos in found.values()} == expected


# Where photos were taken --------------------------------------------------------------------------


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same_places(output):
    """Photo names by place, as the loader for training finds them."""
    source = open_source(DataConfig(root=output, cities=()))
    became = {row["image"]: row["photo"] for row in read_csv(output / "photos.csv")}
    places = source.places
    found = []
    for place in range(len(places)):
        images = range(*places.bounds[place : place + 2])
        found.append(sorted(became[places.name(image)] for image in images))
        assert all(source.read(image) for image in images)
    return sorted(found)


EXPECTED = [[f"p{place}v{view}.jpg" for view in range(4)] for place in range(3)]


def test_of_exif(streets, tmp_path):
    made, known = make_places(streets, PlacesConfig(output=str(tmp_path / "data")))
    assert [(place.city, len(place.photos)) for place in made] == [(0, 4)] * 3
    assert known == "12 of 14 photos have a position, 12 of them a heading, 12 a time"
    assert same_places(tmp_path / "data") == EXPECTED
    rows = read_csv(tmp_path / "data" / "Dataframes" / "My-streets.csv")
    assert [row["northdeg"] for row in rows[:4]] == ["355", "358", "1", "4"]
    assert {(row["year"], row["month"]) for row in rows} == {("2025", str(i)) for i in (1, 2, 3)}
    listed = {row["photo"]: row for row in read_csv(tmp_path / "data" / "photos.csv")}
    assert {title for title, cell in listed["x.jpg"].items() if cell} == {"photo"}
    photo = tmp_path / "data" / listed["p1v2.jpg"]["image"]
    assert photo.read_bytes() == (streets / "p1v2.jpg").read_bytes()


@pytest.mark.parametrize(
    ("name", "city"),
    [("2023", "p2023"), ("1e5", "p1e5"), ("NA", "pNA"), ("true", "ptrue"), ("2023-a", "2023-a")],
)
@pytest.mark.parametrize("given", [True, False])
def test_pandas_takes_names_for_text(streets, tmp_path, name, city, given):
    """As the official loader joins them to the names of the images."""
    photos = streets if given else shutil.copytree(streets, tmp_path / name)
    output = tmp_path / "data"
    make_places(photos, PlacesConfig(output=str(output), name=name if given else None))
    (table,) = (output / "Dataframes").iterdir()
    assert table.stem == city
    for row in read_csv(table):
        assert row["city_id"] == city
        for cell in (row["city_id"], row["panoid"]):
            with pytest.raises(ValueError, match="could not convert"):
                float(cell)
        image = (
            f"{city}_{row['place_id']:0>7}_{row['year']:0>4}_{row['month']:0>2}_"
            f"{row['northdeg']:0>3}_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"
        )
        assert (output / "Images" / city / image).is_file()
    assert len(open_source(DataConfig(output, (city,), places_per_batch=2)).places) == 3


def test_of_names(tmp_path):
    rest = "@@355@@@@201903@@.jpg"
    names = [
        f"@{500005 + 100 * place:010.2f}@{5000005 + view:010.2f}@32@U@@@{place}{view}{rest}"
        for place in range(3)
        for view in range(4)
    ]
    folder = write_images(tmp_path / "town", names)
    make_places(folder, PlacesConfig(output=str(tmp_path / "data")))
    assert same_places(tmp_path / "data") == [sorted(names[i : i + 4]) for i in (0, 4, 8)]
    rows = read_csv(tmp_path / "data" / "Dataframes" / "town.csv")
    assert {row["year"] + row["month"] for row in rows} == {"20193"}

    plain = [name.replace("@32@U@", "@@@") for name in names]
    bare = write_images(tmp_path / "bare", plain)
    with pytest.raises(InputError, match=r"expected the UTM zone .* such as --zone 32U"):
        make_places(bare, PlacesConfig(output=str(tmp_path / "other")))
    make_places(bare, PlacesConfig(output=str(tmp_path / "other"), zone="32u"))
    assert same_places(tmp_path / "other") == [sorted(plain[i : i + 4]) for i in (0, 4, 8)]
    bandless = [name.replace("@32@U@", "@32@@") for name in names]
    write_images(tmp_path / "bandless", bandless)
    with pytest.raises(InputError, match="zone with its band, as in 32U, found 32"):
        make_places(tmp_path / "bandless", PlacesConfig(output=str(tmp_path / "c"), zone="33U"))
    make_places(tmp_path / "bandless", PlacesConfig(output=str(tmp_path / "c"), zone="32U"))
    assert same_places(tmp_path / "c") == [sorted(bandless[i : i + 4]) for i in (0, 4, 8)]


@pytest.mark.parametrize("columns", ["lat;lon", "EAST,North,zone"])
def test_of_a_table(columns, streets, tmp_path):
    separator = ";" if ";" in columns else ","
    lines = [separator.join(["Image", *columns.split(separator), "heading", "time"])]
    for place in range(3):
        for view in range(4):
            east, north = 700005.0 + 100 * place, 9000005.0 + view
            cells = to_latlon(east, north, 56, "H", strict=False)
            cells = cells if separator == ";" else (east, north, "56H")
            time = "2026-01-02T03:04:05Z" if view else ""
            row = [f"p{place}v{view}.jpg", *cells, -5, time]
            lines.append(separator.join(map(str, row)))
    lines.append(separator.join(["x.jpg"] + [""] * columns.count(separator) + ["", "", ""]))
    table = tmp_path / "table.csv"
    table.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    config = PlacesConfig(output=str(tmp_path / "data"), positions=str(table), name="Sydney")
    _, known = make_places(streets, config)
    assert known == "12 of 14 photos have a position, 12 of them a heading, 9 a time"
    assert same_places(tmp_path / "data") == EXPECTED
    rows = read_csv(tmp_path / "data" / "Dataframes" / "Sydney.csv")
    assert {row["northdeg"] for row in rows} == {"355"}


@pytest.mark.parametrize("source", ["exif", "names", "table"])
def test_photos_without_headings_or_times_are_told(source, tmp_path, caplog):
    """As of GoPro's EXIF, and of Pittsburgh's names, whose views go round."""
    folder, lines = tmp_path / "photos", ["image,lat,lon"]
    folder.mkdir()
    for index in range(8):
        position = at(500005.0 + 100 * (index // 4) + index % 4, 5000005.0).position
        named = f"@{500005 + 100 * (index // 4) + index % 4}@5000005@32@T@@@{index}@@@@@@@@.jpg"
        name = named if source == "names" else f"{index}.jpg"
        (folder / name).write_bytes(jpeg_taken(position if source == "exif" else None))
        lines.append(f"{name},{position[0]},{position[1]}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = str(tmp_path / "t.csv") if source == "table" else None
    _, known = make_places(folder, PlacesConfig(output=str(tmp_path / "data"), positions=table))
    assert known == "8 of 8 photos have a position, 0 of them a heading, 0 a time"
    assert "photos: no photo has a heading; photos that look different ways may" in caplog.text
    config = PlacesConfig(output=str(tmp_path / "other"), positions=table, min_days=2)
    with pytest.raises(InputError, match=r"found none such \(8 of 8 .* 0 a time\); change"):
        make_places(folder, config)


def test_a_place_at_the_date_line_is_read_for_training(streets, tmp_path):
    rows = [
        f"p{place}v{view}.jpg,{-17 + place / 100},{(-179.99999, 179.99999)[view % 2]}"
        for place in range(3)
        for view in range(4)
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["name,lat,lon", *rows]))
    make_places(streets, PlacesConfig(output=str(tmp_path / "data"), positions=str(table)))
    assert same_places(tmp_path / "data") == EXPECTED


def test_what_the_command_lists_is_a_table_again(streets, tmp_path):
    """Whose column image says what a photo became."""
    make_places(streets, PlacesConfig(output=str(tmp_path / "data"), name="A"))
    table = str(tmp_path / "data" / "photos.csv")
    make_places(streets, PlacesConfig(output=str(tmp_path / "again"), name="A", positions=table))
    for name in ("photos.csv", "Dataframes/A.csv"):
        assert read_csv(tmp_path / "again" / name) == read_csv(tmp_path / "data" / name)


@pytest.mark.parametrize(
    ("text", "month"),
    [
        ("2026-01-02T03:04:05+09:00", (2026, 1)),
        ("2026:02:03 04:05:06", (2026, 2)),
        ("201903", (2019, 3)),
        ("2019-03", (2019, 3)),
        ("20190415", (2019, 4)),
        ("1712101211", (2024, 4)),  # not 1712-10-12
        ("1712101211234", (2024, 4)),
        ("1712101211.5", (2024, 4)),
    ],
)
def test_times_of_a_table(text, month, streets, tmp_path, caplog):
    table = tmp_path / "table.csv"
    rows = [f"p{p}v{v}.jpg,{48 + p / 100},11,{text}" for p in range(3) for v in range(4)]
    table.write_text("\n".join(["name,lat,lon,time", *rows, "gone.jpg,1,1,"]))
    config = PlacesConfig(output=str(tmp_path / "data"), positions=str(table), name="A")
    make_places(streets, config)
    rows = read_csv(tmp_path / "data" / "Dataframes" / "A.csv")
    assert {(int(row["year"]), int(row["month"])) for row in rows} == {month}
    assert same_places(tmp_path / "data") == EXPECTED  # without headings
    assert "1 rows name no photo of" in caplog.text and "the first gone.jpg" in caplog.text


# Wrong input --------------------------------------------------------------------------------------


def test_wrong_options(streets, tmp_path):
    with pytest.raises(InputError, match="heading_degrees: expected at most 360, found 400"):
        PlacesConfig(output="data", heading_degrees=400)
    with pytest.raises(InputError, match="name: expected letters, digits and hyphens, found a/b"):
        PlacesConfig(output="data", name="a/b")
    with pytest.raises(InputError, match="expected no such folder, found one"):
        make_places(streets, PlacesConfig(output=str(tmp_path)))
    (tmp_path / "link").symlink_to(streets)
    for inside in (streets / "data", streets / "a" / ".." / "data", tmp_path / "link" / "data"):
        with pytest.raises(InputError, match="data: expected a folder outside of .*My streets"):
            make_places(streets, PlacesConfig(output=str(inside)))
    with pytest.raises(InputError, match="expected a folder of this machine"):
        make_places(streets, PlacesConfig(output="gs://bucket/data"))


def test_training_on_them(streets, tmp_path, caplog):
    """The recipe takes every city, and fewer places than a batch are told."""
    from mixvpr_jax.training.recipes import load_recipe

    make_places(streets, PlacesConfig(output=str(tmp_path / "data")))
    config, _ = load_recipe("finetune")
    assert json.loads(json.dumps(config.to_dict()))["data"]["cities"] == []
    data = DataConfig(root=tmp_path / "data", cities=config.data.cities, places_per_batch=60)
    assert open_source(data).places.cities == ("My-streets",)
    assert "3 places, fewer than a batch of data.places-per-batch 60" in caplog.text
