"""The generated town: the same call draws the same pixels, and folders say what was drawn."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.town import (
    CSV_HEADER,
    CityConfig,
    draw_view,
    write_evaluation_folders,
    write_gsv_cities,
)
from mixvpr_jax.errors import InputError

SMALL = CityConfig(num_places=5, images_per_place=3, image_size=(60, 80), seed=7)
TINY = CityConfig(num_places=2, images_per_place=2, image_size=(36, 48))
POSITIVE_RADIUS_M = 25.0


def pixels(config: CityConfig, place: int, view: int) -> np.ndarray:
    return np.asarray(draw_view(config, place, view), np.float32)


def positions_m(folder: Path) -> np.ndarray:
    """East and north [n, 2] of a folder's pictures, read from the file's own name."""
    names = sorted(path.name for path in folder.iterdir())
    return np.array([[float(part) for part in name.split("@")[1:3]] for name in names])


def places(folder: Path) -> np.ndarray:
    return np.array([path.name.split("@")[3] for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    # An "@" in a parent folder must not disturb whoever parses the names.
    return write_evaluation_folders(SMALL, tmp_path_factory.mktemp("a@1.0@2.0@town"))


@pytest.fixture(scope="module")
def gsv_cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gsv_cities(TINY, tmp_path_factory.mktemp("gsv"))


def test_a_view_is_drawn_alike_in_any_order() -> None:
    forward = [pixels(SMALL, place, view) for place in (0, 3) for view in (0, 2)]
    backward = [pixels(SMALL, place, view) for place in (3, 0) for view in (2, 0)]
    for first, second in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_view_depends_neither_on_the_number_of_places_nor_on_that_of_views() -> None:
    larger = CityConfig(num_places=50, images_per_place=9, image_size=(60, 80), seed=7)
    np.testing.assert_array_equal(pixels(SMALL, 1, 1), pixels(larger, 1, 1))


@pytest.mark.parametrize("other", [(0, 1), (1, 0)])
def test_views_and_places_differ(other: tuple[int, int]) -> None:
    assert np.abs(pixels(SMALL, 0, 0) - pixels(SMALL, *other)).mean() > 5


def test_a_hard_town_varies_more_than_an_easy_one() -> None:
    def spread(difficulty: float) -> float:
        config = CityConfig(image_size=(60, 80), difficulty=difficulty)
        first, second = (
            np.stack([pixels(config, place, view) for place in range(4)]) for view in (0, 1)
        )
        return float(np.abs(first - second).mean())

    assert spread(1.0) > 1.5 * spread(0.0)


@pytest.mark.parametrize("size", [(300, 400), (33, 64)])
def test_pictures_have_the_size_asked_for(size: tuple[int, int]) -> None:
    image = draw_view(CityConfig(image_size=size, difficulty=1.0), 0, 0)
    assert (image.size, image.mode) == (size[::-1], "RGB")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_places", 0),
        ("images_per_place", 0),
        ("image_size", (31, 100)),
        ("image_size", (100, 31)),
        ("image_size", (100,)),
        ("difficulty", 1.5),
        ("difficulty", float("nan")),
        ("seed", -1),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"expected {field}.*, found [^\n]*$"):
        CityConfig(**{field: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("place", "view"), [(5, 0), (-1, 0), (0, 3), (0, -1)])
def test_only_existing_views_are_drawn(place: int, view: int) -> None:
    with pytest.raises(InputError, match=r"expected (place|view) "):
        draw_view(SMALL, place, view)


def test_evaluation_names_follow_the_convention(evaluation: tuple[Path, Path]) -> None:
    pattern = re.compile(r"@\d{7}\.\d\d@\d{7}\.\d\d@place\d{4}@view\d\d@\.jpg")
    for folder, count in zip(evaluation, (10, 5), strict=True):
        names = [path.name for path in folder.iterdir()]
        assert len(names) == count
        assert all(pattern.fullmatch(name) for name in names)


def test_the_last_views_are_queries(evaluation: tuple[Path, Path]) -> None:
    database, queries = evaluation
    assert {path.name.split("@")[4] for path in database.iterdir()} == {"view00", "view01"}
    assert {path.name.split("@")[4] for path in queries.iterdir()} == {"view02"}


def test_positives_are_the_views_of_the_same_place(evaluation: tuple[Path, Path]) -> None:
    database, queries = evaluation
    gaps_m = positions_m(queries)[:, None] - positions_m(database)[None]
    is_positive = np.linalg.norm(gaps_m, axis=-1) <= POSITIVE_RADIUS_M
    np.testing.assert_array_equal(is_positive, places(queries)[:, None] == places(database))


def test_the_same_files_come_out_twice(evaluation: tuple[Path, Path], tmp_path: Path) -> None:
    for first, second in zip(evaluation, write_evaluation_folders(SMALL, tmp_path), strict=True):
        assert {path.name: path.read_bytes() for path in first.iterdir()} == {
            path.name: path.read_bytes() for path in second.iterdir()
        }


def test_folders_with_files_are_refused_unless_overwritten(tmp_path: Path) -> None:
    database, _ = write_evaluation_folders(TINY, tmp_path)
    (database / "mine.jpg").write_bytes(b"")
    before = sorted(database.iterdir())
    other = CityConfig(num_places=1, images_per_place=2, image_size=(36, 48), seed=1)
    with pytest.raises(InputError, match="found .*--overwrite"):
        write_evaluation_folders(other, tmp_path)
    assert sorted(database.iterdir()) == before
    write_evaluation_folders(other, tmp_path, overwrite=True)
    assert len(list(database.iterdir())) == 2
    assert (database / "mine.jpg").exists()


def test_nobody_elses_photos_are_replaced(tmp_path: Path) -> None:
    """Also where they are named as those that are drawn, as a town's of an older version are."""
    database, _ = write_evaluation_folders(TINY, tmp_path)
    theirs = max(database.iterdir())
    Image.new("RGB", (48, 36)).save(theirs)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"{theirs.name}: expected a file that this command drew"):
        write_evaluation_folders(TINY, tmp_path, overwrite=True)
    assert contents(tmp_path) == before
    theirs.unlink()
    write_evaluation_folders(TINY, tmp_path, overwrite=True)
    assert contents(tmp_path).keys() == before.keys()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


GSV_NAME = "Avalon_0000000_2012_03_007_41.9_12.5_abcdefghijklmnopqrstuv.jpg"
GSV_ROW = "0,2012,3,7,Avalon,41.9,12.5,abcdefghijklmnopqrstuv"


@pytest.mark.parametrize("drawn_before", [False, True])
@pytest.mark.parametrize("city", ["Avalon", "Brigadoon"])
@pytest.mark.parametrize("part", ["table", "photo", "both"])
def test_no_real_city_is_replaced(tmp_path: Path, part: str, city: str, drawn_before: bool) -> None:
    """--overwrite in a folder that holds GSV-Cities: nothing of any city is touched."""
    if drawn_before:
        write_gsv_cities(TINY, tmp_path)
    table, photo = tmp_path / "Dataframes" / f"{city}.csv", tmp_path / "Images" / city / GSV_NAME
    for path in (table, photo):
        path.parent.mkdir(parents=True, exist_ok=True)
    if part != "photo":
        table.write_text(f"{CSV_HEADER}\n{GSV_ROW}\n")
    if part != "table":
        Image.new("RGB", (48, 36)).save(photo)
    before = contents(tmp_path)
    for overwrite, line in ((True, "found one without its mark"), (False, "found .*--overwrite")):
        with pytest.raises(InputError, match=line):
            write_gsv_cities(TINY, tmp_path, overwrite=overwrite)
        assert contents(tmp_path) == before


def test_a_city_half_drawn_is_drawn_again(tmp_path: Path) -> None:
    whole = contents(write_gsv_cities(TINY, tmp_path))
    (tmp_path / "Dataframes" / "Avalon.csv").unlink()
    max((tmp_path / "Images" / "Avalon").iterdir()).unlink()
    write_gsv_cities(TINY, tmp_path, overwrite=True)
    assert contents(tmp_path) == whole


def test_other_cities_are_left_alone(tmp_path: Path) -> None:
    write_gsv_cities(TINY, tmp_path, cities=("Avalon",))
    theirs = tmp_path / "Images" / "London" / GSV_NAME
    theirs.parent.mkdir()
    theirs.write_bytes(b"a photo")
    write_gsv_cities(TINY, tmp_path, cities=("Avalon",), overwrite=True)
    assert theirs.read_bytes() == b"a photo"


def test_the_command_tells_its_own_option(tmp_path: Path) -> None:
    options = ["--num-places", "1", "--images-per-place", "2", "--image-size", "36", "48"]
    command = [sys.executable, "-m", "demo.draw", str(tmp_path), *options]
    command += ["--cities", "Avalon", "--workers", "1"]
    subprocess.run(command, check=True)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert again.stderr.count("\n") == 1
    subprocess.run([*command, "--overwrite"], check=True)


@pytest.mark.parametrize("queries_per_place", [0, 2])
def test_neither_database_nor_queries_may_be_empty(queries_per_place: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected queries_per_place"):
        write_evaluation_folders(TINY, tmp_path, queries_per_place=queries_per_place)
    assert not list(tmp_path.iterdir())


def test_gsv_tables_and_names_agree(gsv_cities: Path) -> None:
    for city in ("Avalon", "Brigadoon"):
        text = (gsv_cities / "Dataframes" / f"{city}.csv").read_text()
        assert text.startswith("place_id,year,month,northdeg,city_id,lat,lon,panoid\n")
        names = [gsv_name(row) for row in csv.DictReader(text.splitlines())]
        assert sorted(names) == sorted(p.name for p in (gsv_cities / "Images" / city).iterdir())
        assert [name.split("_")[1] for name in names] == ["0000000"] * 2 + ["0000001"] * 2


def gsv_name(row: dict[str, str]) -> str:
    """The name as GSV-Cities' own loader makes it, from numbers that a table reader gave back."""
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", row["panoid"])
    place, year, north = int(row["place_id"]), int(row["year"]), int(row["northdeg"])
    when = f"{year:04d}_{int(row['month']):02d}_{north:03d}"
    where = f"{float(row['lat'])}_{float(row['lon'])}"
    return f"{row['city_id']}_{place:07d}_{when}_{where}_{row['panoid']}.jpg"


def test_cities_hold_different_places(gsv_cities: Path) -> None:
    first, second = (
        {path.read_bytes() for path in (gsv_cities / "Images" / city).iterdir()}
        for city in ("Avalon", "Brigadoon")
    )
    assert len(first) == len(second) == 4
    assert not first & second


def test_gsv_cities_are_not_overwritten_unasked(gsv_cities: Path) -> None:
    before = sorted(gsv_cities.rglob("*"))
    with pytest.raises(InputError, match="found .*--overwrite"):
        write_gsv_cities(TINY, gsv_cities)
    write_gsv_cities(TINY, gsv_cities, overwrite=True)
    assert sorted(gsv_cities.rglob("*")) == before


@pytest.mark.parametrize("cities", [("New_York",), ("../Avalon",), ("Avalon", "Avalon"), ("",)])
def test_city_names_must_be_distinct_letters(cities: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected distinct city names"):
        write_gsv_cities(TINY, tmp_path, cities=cities)
