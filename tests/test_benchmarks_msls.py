"""Mapillary Street-Level Sequences: 740 queries, every query, and those without an answer."""

import csv

import numpy as np
import pytest
from benchmark_trees import (
    MSLS_DATABASE,
    MSLS_ORIGIN,
    listed,
    msls_downloader_tree,
    msls_test_tree,
    msls_tree,
    object_array,
    refused,
    refused_subset,
    set_counts,
    small,
    write_image,
    write_images,
    write_msls_lists,
)

from mixvpr_jax.datasets import read_benchmark, read_folder_pair
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.output import write_submission


def test_the_official_msls_queries(tmp_path, monkeypatch):
    set_counts(monkeypatch, "msls-val", 4, 3)
    root = msls_tree(tmp_path / "msls")
    write_msls_lists(tmp_path / "repository" / "datasets" / "msls_val")
    found = read_benchmark("msls-val", tmp_path, ground_truth=tmp_path / "repository")
    assert found.database == tuple(root / name for name in MSLS_DATABASE)
    assert [query.stem for query in found.queries] == ["cq0", "cq1", "sq0"]  # by qIdx
    assert listed(found.positives) == [[0, 1], [1], [3]]  # in order
    assert found.conditions == {
        "city": ["cph", "cph", "sf"],
        "light": ["day", "night", "night"],
        "season": ["winter", "spring", "summer"],
    }
    np.testing.assert_array_equal(found.queries_utm[1], np.add(MSLS_ORIGIN, (45, 0)))
    assert len(found.database_utm) == 4 and not found.is_subset


def test_official_msls_queries_without_tables(tmp_path):
    root = msls_tree(tmp_path)
    for table in root.rglob("*.csv"):
        table.unlink()
    found = small("msls-val", write_msls_lists(root))
    assert found.conditions == {"city": ["cph", "cph", "sf"]}
    assert found.database_utm is None and found.queries_utm is None


def test_official_msls_queries_among_the_downloaders(tmp_path):
    msls_downloader_tree(tmp_path / "msls")
    truth = write_msls_lists(tmp_path / "truth")
    found = small("msls-val", tmp_path, ground_truth=truth)
    keys = [path.name.split("@")[7] for path in (*found.database, *found.queries)]
    assert keys == ["cdb-0", "c_db1", "cdb3", "sdb0", "cq0", "cq1", "sq0"]
    assert listed(found.positives) == [[0, 1], [1], [3]]
    assert found.conditions["light"] == ["day", "night", "night"]
    assert found.conditions["season"] == ["winter", "spring", "summer"]
    assert len(found.queries_utm) == 3


def test_official_msls_queries_as_openvprlab_ships_them(tmp_path):
    root = msls_tree(tmp_path) / "train_val"
    short = [name.removeprefix("train_val/") for name in MSLS_DATABASE]
    np.save(root / "msls_val_ref_image_names.npy", np.array(short))
    np.save(root / "msls_val_query_image_names.npy", np.array(["cph/query/images/cq1.jpg"]))
    np.save(root / "msls_val_ground_truth_25m.npy", object_array([np.array([1])]))
    found = small("msls-val", root)
    assert listed(found.positives) == [[1]] and found.conditions["light"] == ["night"]


# Cities apart, panoramas left out, a query without positives kept.
MSLS_ALL = {"cq0": ["c_db1", "cdb-0"], "cq1": ["c_db1"], "cq3": [], "sq0": ["sdb0"]}


@pytest.mark.parametrize("tree", [msls_tree, msls_downloader_tree])
def test_every_msls_query(tmp_path, tree):
    tree(tmp_path / "msls")
    found = small("msls-val-all", tmp_path)

    def key(path):
        return path.name.split("@")[7] if "@" in path.name else path.stem

    near = {
        key(query): sorted(key(found.database[index]) for index in positives)
        for query, positives in zip(found.queries, found.positives, strict=True)
    }
    assert near == MSLS_ALL
    assert found.protocol.name == "msls-val-all" and found.is_subset
    of = dict(zip(map(key, found.queries), found.conditions["season"], strict=True))
    assert of == {"cq0": "winter", "cq1": "spring", "cq3": "autumn", "sq0": "summer"}
    assert sorted(found.conditions["city"]) == ["cph", "cph", "cph", "sf"]
    assert sorted(found.conditions["light"]) == ["day", "day", "night", "night"]


def test_msls_test_and_its_prediction_file(tmp_path):
    root = msls_test_tree(tmp_path / "msls")
    found = read_benchmark("msls-test", tmp_path)
    assert found.positives is None and not found.is_subset
    assert found.database[:3] == tuple(
        root / "test" / city / "database" / "images" / f"{key}.jpg"
        for city, key in [("miami", "mid0"), ("miami", "mid1"), ("athens", "atd0")]
    )
    assert found.conditions["city"][:2] == ["miami", "athens"]
    write_submission(tmp_path / "p.csv", found, np.array([[1, 2]] * 6))
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[:2] == ["miq0 mid1 atd0", "atq0 mid1 atd0"] and len(lines) == 6
    read = np.loadtxt(tmp_path / "p.csv", ndmin=2, dtype=str)  # as the script reads it
    assert read.shape == (6, 3)
    write_submission(tmp_path / "p.csv", found, np.zeros((6, 40), int))
    assert len((tmp_path / "p.csv").read_text().split()) == 6 * 26


def test_every_msls_query_is_not_taken_for_the_740(tmp_path):
    msls_downloader_tree(tmp_path / "msls")
    message = "msls-val: expected msls_val_dbImages.npy.*official 740 queries, .*msls-val-all"
    refused_subset(message, "msls-val", tmp_path)
    msls_tree(tmp_path / "mapillary")
    refused_subset(message, "msls-val", tmp_path / "mapillary")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qIdx": np.array([0, 4])}, r"qIdx.npy: msls_val_qImages.npy has 4 images, .* found 4"),
        ({"qIdx": np.array([0.5])}, "qIdx.npy: expected whole numbers"),
        ({"qIdx": np.array([1, 0, 1, 0])}, "msls_val_qIdx.npy: .* found a 0 or 1 for each"),
        ({"qIdx": np.array([[0]])}, r"qIdx.npy: expected a list of whole numbers, found shape"),
        ({"pIdx": object_array([[0]])}, "pIdx.npy: expected the positives of 3 queries, found 1"),
        ({"pIdx": object_array([[0], [9], [1]])}, "pIdx.npy: query 1: .* has 4 images"),
        (
            {"qImages": np.array(["a.jpg", "b", "c", "d"])},
            "expected names CITY/query/images/KEY.jpg",
        ),
        ({"qIdx": np.array([], int), "pIdx": object_array([])}, "found 4 .* and 0 queries"),
    ],
)
def test_msls_lists_that_are_wrong(tmp_path, changes, message):
    refused_subset(message, "msls-val", msls_tree(write_msls_lists(tmp_path, **changes)))


def test_official_msls_images_that_are_missing(tmp_path, monkeypatch):
    set_counts(monkeypatch, "msls-val", 4, 3)
    msls_downloader_tree(tmp_path)
    next((tmp_path / "val" / "queries").glob("*@cq1@*")).unlink()
    error = refused("found 1 missing", "msls-val", write_msls_lists(tmp_path))
    assert error.details == (f"missing: {tmp_path}/val/queries/@*@cq1@*.jpg",)
    found = small("msls-val", tmp_path)
    assert found.is_subset and len(found.queries) == 2


def change_table(file, column, value, line=1):
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows[line][rows[0].index(column)] = value
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.mark.parametrize(
    ("column", "value", "line", "message"),
    [
        ("easting", "x", 2, "postprocessed.csv: line 3: expected metres, found x, "),
        ("northing", "nan", 1, "postprocessed.csv: line 2: expected metres, found"),
        ("key", "other", 1, "postprocessed.csv: line 2: expected an image of raw.csv, found other"),
        (
            "key",
            "cq0",
            2,
            "postprocessed.csv: line 3: .* found cq0, which is not there, or here twice",
        ),
        ("easting", "lat", 0, "postprocessed.csv: expected columns easting, found none such"),
    ],
)
def test_tables_that_are_wrong(tmp_path, column, value, line, message):
    msls_tree(tmp_path)
    file = tmp_path / "train_val" / "sf" / "database" / "postprocessed.csv"
    file = file if line < 2 else tmp_path / "train_val" / "cph" / "query" / "postprocessed.csv"
    change_table(file, column, value, line)
    refused_subset(message, "msls-val-all", tmp_path)


@pytest.mark.parametrize("forms", [("TRUE", "false"), ("1", "0"), ("1.0", "0.0")])
def test_panoramas_and_nights_in_other_forms(tmp_path, forms):
    msls_tree(tmp_path)
    usual = small("msls-val-all", tmp_path)
    for file in tmp_path.rglob("*.csv"):
        text = file.read_text().replace("True", forms[0]).replace("False", forms[1])
        file.write_text(text)
    found = small("msls-val-all", tmp_path)
    assert (found.database, found.conditions) == (usual.database, usual.conditions)
    change_table(tmp_path / "train_val" / "sf" / "query" / "raw.csv", "pano", "no")
    refused_subset("raw.csv: expected True or False in pano, found 'no'", "msls-val-all", tmp_path)


def test_tables_that_begin_with_a_byte_order_mark(tmp_path):
    """As Excel saves them."""
    msls_tree(tmp_path)
    without = small("msls-val-all", tmp_path)
    for file in tmp_path.rglob("*.csv"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert small("msls-val-all", tmp_path).database == without.database


def test_tables_that_are_missing_or_no_text(tmp_path):
    msls_tree(tmp_path)
    file = tmp_path / "train_val" / "sf" / "query" / "postprocessed.csv"
    file.write_bytes(b"\xff\xfe,key\n")
    refused_subset("postprocessed.csv: expected a table in UTF-8", "msls-val-all", tmp_path)
    file.unlink()
    refused_subset("postprocessed.csv: expected a table, No such", "msls-val-all", tmp_path)


def test_msls_in_degrees(tmp_path):
    for part in ("database", "queries"):
        names = [f"@55.67{i}@12.56@33@U@@@key{i}@@@@@@@@.jpg" for i in range(3)]
        write_images(tmp_path / "val" / part, names)
    refused_subset("look like degrees", "msls-val-all", tmp_path)


def test_msls_cities_that_are_missing(tmp_path):
    msls_test_tree(tmp_path)
    (tmp_path / "test" / "kampala" / "query" / "subtask_index.csv").unlink()
    refused_subset(r"kampala/query/subtask_index.csv: expected a table", "msls-test", tmp_path)
    (tmp_path / "val" / "database").mkdir(parents=True)  # the downloader's test is its val
    refused(r"expected Mapillary's test/miami", "msls-test", tmp_path / "val")


def test_keys_that_a_prediction_file_cannot_hold(tmp_path):
    found = read_folder_pair(write_image(tmp_path / "a b" / "c d.jpg").parent, tmp_path / "a b")
    with pytest.raises(InputError, match=r"c d.jpg: expected a key without spaces"):
        write_submission(tmp_path / "p.csv", found, np.zeros((1, 1), int))
    assert not (tmp_path / "p.csv").exists()
