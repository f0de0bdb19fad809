"""Tables of GSV-Cities and of Mapillary from strangers."""

import csv
import io
import shutil

import pytest
from benchmark_trees import msls_tree, small
from breaking import broken
from fuzzing import allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st
from tables import COLUMNS, names_of, row, write_city

from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.sources import open_source

NUMBERS = [
    "0",
    "1",
    "-1",
    "007",
    "1_0",
    "１",
    "1e3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "",
    " 1",
]
NUMBERS += [
    "10.0",
    "2024.0",
    "-079.990",
    str(2**63),
    str(2**64),
    str(10**30),
    "9" * 400,
    "9" * 5000,
    "0x1",
    "None",
    "+2",
    "1\0",
]
TEXTS = [
    "Rome",
    "..",
    "../..",
    "/",
    "/etc",
    "a/b",
    "a\\b",
    "",
    ".",
    "C:",
    "\0",
    "a\nb",
    "a\x0bb",
    "é",
]
TEXTS += ["a\u2028b", '"', "x" * 300, "../outside/Rome", "../../outside", "Rome/.."]
KINDS = dict.fromkeys(("place_id", "year", "month", "northdeg", "lat", "lon"), NUMBERS)
KINDS |= dict.fromkeys(("city_id", "panoid"), TEXTS)


@st.composite
def tables(draw):
    """A table with values that are none."""
    rows = [dict(zip(COLUMNS, row(place, panoid=f"{place}"), strict=True)) for place in (1, 1, 2)]
    for values in rows:
        for name in draw(st.lists(st.sampled_from(COLUMNS), max_size=2)):
            known = st.sampled_from(KINDS[name])
            values[name] = draw(known if draw(st.integers(0, 2)) else st.text(max_size=8))
    stream = io.StringIO()
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    columns = draw(st.permutations(COLUMNS)) if draw(st.booleans()) else COLUMNS
    writer = csv.DictWriter(stream, columns, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A data set, and something beside it that is none of it."""
    root = write_city(tmp_path_factory.mktemp("gsv") / "data", places=2, images=2)
    outside = root.parent / "outside"
    for name in names_of(root):
        for folder in (outside, outside / "Rome", root.parent):
            folder.mkdir(exist_ok=True)
            shutil.copy(root / name, folder)
    return root


@pytest.fixture(scope="module")
def read(city):
    def read_images(table):
        (city / "Dataframes" / "Rome.csv").write_bytes(table)
        config = DataConfig(
            city, ("Rome",), 2, 2, min_images_per_place=2, skip_missing=True, num_workers=0
        )
        source = open_source(config)
        for image in range(len(source.places.names)):
            source.read(image)

    def read_as(table):
        return line_of(read_images, table, memory=allowed(table, ".csv"), inside=city)

    read_as((city / "Dataframes" / "Rome.csv").read_bytes())
    return read_as


SEEDS = kept_seeds(".csv")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(read, name):
    assert read(SEEDS[name])


TABLE = "\n".join(
    [",".join(COLUMNS), *(",".join(map(str, row(i // 2))) for i in range(4))]
).encode()


@campaign(400)
@given(st.one_of(tables(), broken([TABLE], [b'"', b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"../"])))
def test_tables_of_gsv_cities(read, table):
    read(table)


# Mapillary --------------------------------------------------------------------------------------

CELLS = [
    "",
    "true",
    "True",
    "nan",
    "inf",
    "1e400",
    "1e300",
    "x",
    "..",
    "/etc/passwd",
    "../../outside/a",
]
CELLS += ["\0", "é", "2018-13-01", "cdb-0", "c_db1", "'", "9" * 400]


@pytest.fixture(scope="module")
def mapillary(tmp_path_factory):
    return msls_tree(tmp_path_factory.mktemp("msls"))


@campaign(150)
@given(st.data())
def test_tables_of_mapillary(mapillary, data):
    folder = mapillary / "train_val" / data.draw(st.sampled_from(("cph", "sf"))) / "database"
    file = folder / data.draw(st.sampled_from(("raw.csv", "postprocessed.csv")))
    whole = file.read_bytes()
    try:
        if data.draw(st.booleans()):
            content = data.draw(broken([whole], [b'"', b"\0", b"\xff", b",", b"\r"]))
        else:
            rows = [line.split(",") for line in whole.decode().splitlines()]
            for _ in range(data.draw(st.integers(1, 3))):
                row = rows[data.draw(st.integers(0, len(rows) - 1))]
                row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.sampled_from(CELLS))
            content = "\n".join(",".join(row) for row in rows).encode()
        file.write_bytes(content)
        line_of(small, "msls-val-all", mapillary, inside=mapillary)
    finally:
        file.write_bytes(whole)
