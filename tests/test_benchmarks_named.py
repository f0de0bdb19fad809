"""Benchmarks whose file names hold positions: SVOX, St Lucia, Eynsham, AmsterTime, SF-XL."""

import re

import numpy as np
import pytest
from benchmark_trees import (
    EAST,
    NORTH,
    labelled_name,
    named_tree,
    refused,
    refused_subset,
    set_counts,
    small,
    write_image,
    write_images,
)
from scipy.spatial import KDTree

from mixvpr_jax.datasets import BENCHMARKS, read_benchmark
from mixvpr_jax.evaluation.config import EvaluationConfig

SVOX = ("test", "night", "overcast", "rain", "snow", "sun")
SF_XL = ("v1", "v2", "night", "occlusion")
# Name → the dataset's folder, where images lie in it, the folders of database and queries.
TREES = {
    **{
        f"svox-{name}": (
            "svox",
            "images/test",
            "gallery",
            "queries" if name == "test" else f"queries_{name}",
        )
        for name in SVOX
    },
    **{
        f"sf-xl-{name}": ("sf_xl", "processed/test", "database", f"queries_{name}")
        for name in SF_XL
    },
    "st-lucia": ("st_lucia", "images/test", "database", "queries"),
    "eynsham": ("eynsham", "images/test", "database", "queries"),
    "sf-landmark": ("san_francisco", "images/test", "database", "queries"),
}
# Two database images on one spot, one 100 m on; queries at exactly 25 m of the two (15, 20),
# a centimetre beyond them, exactly 25 m of the third, and far from all.
DATABASE_UTM = [(EAST, NORTH), (EAST, NORTH), (EAST + 100, NORTH)]
QUERIES_UTM = [
    (EAST + 15, NORTH + 20),
    (EAST - 25.01, NORTH),
    (EAST + 100, NORTH - 25),
    (EAST, NORTH + 9000),
]
POSITIVES = [[0, 1], [], [2], []]


def by_key(found):
    """For each query's key those of its positives, in the order of the lists that were written."""
    keys = [[path.name.split("@")[7] for path in side] for side in (found.database, found.queries)]
    near = {
        query: sorted(int(keys[0][i]) for i in positives)
        for query, positives in zip(keys[1], found.positives, strict=True)
    }
    return [near[key] for key in sorted(near)]


@pytest.mark.parametrize("name", TREES)
def test_positions_in_names(tmp_path, monkeypatch, name):
    folder, within, *names = TREES[name]
    root = named_tree(tmp_path / folder / within, *names, DATABASE_UTM, QUERIES_UTM)
    write_image(root / "queries_other" / labelled_name(EAST, NORTH))  # of another condition
    set_counts(monkeypatch, name, 3, 4)
    for where in (tmp_path, tmp_path / folder, root.parent, root):
        found = read_benchmark(name, where)
        assert by_key(found) == POSITIVES and not found.is_subset
        assert {path.parent.name for path in found.queries} == {names[1]}
        assert found.protocol.radius_m == 25 and found.layout.startswith("VPR-datasets-downl")
        assert found.database_utm.shape == (3, 2)


def test_pairs_of_amstertime(tmp_path, monkeypatch):
    """Made-up positions, a kilometre a pair; they make positives and no map."""
    set_counts(monkeypatch, "amstertime", 12, 12)
    for folder in ("database", "queries"):
        names = [f"@0@{1000 * pair}@@@@@{pair}@@@@@@@@.jpg" for pair in range(12)]
        write_images(tmp_path / "amstertime" / "images" / "test" / folder, names)
    found = read_benchmark("amstertime", tmp_path)
    for query, [positive] in zip(found.queries, found.positives, strict=True):
        assert found.database[positive].name == query.name
    assert found.database_utm is None and "made up" in found.protocol.ground_truth


def test_a_tree_of_scipy_finds_the_same(tmp_path):
    random = np.random.default_rng(0)
    sides = [
        np.round(np.array([EAST, NORTH]) + random.uniform(0, 400, (count, 2)), 2)
        for count in (300, 60)
    ]
    root = named_tree(tmp_path / "svox/images/test", "gallery", "queries_night", *sides)
    found = small("svox-night", root)
    for query, positives in zip(found.queries_utm, found.positives, strict=True):
        expected = KDTree(found.database_utm).query_ball_point(query, 25.0)
        assert positives.tolist() == sorted(expected)
    assert min(map(len, found.positives)) > 0 and sum(map(len, found.positives)) > 150
    order = np.lexsort(sides[1].T[::-1])
    np.testing.assert_array_equal(found.queries_utm, sides[1][order])


def test_a_list_beside_the_database(tmp_path, monkeypatch):
    """SF-XL's folders hold millions of images, and a list that spares going through them."""
    root = named_tree(tmp_path / "processed/test", "database", "queries_v1", DATABASE_UTM, [])
    write_image(root / "queries_v1" / labelled_name(*QUERIES_UTM[0]))
    names = sorted(path.name for path in (root / "database").iterdir())
    (root / "database_images_paths.txt").write_text("\n".join(reversed(names[1:])))
    monkeypatch.setattr("mixvpr_jax.datasets.folders._found", lambda root: walked.append(root))
    walked = []
    (root / "queries_v1_images_paths.txt").write_text(labelled_name(*QUERIES_UTM[0]))
    found = small("sf-xl-v1", tmp_path)
    assert [path.name for path in found.database] == names[:0:-1] and not walked


@pytest.mark.parametrize("name", ["svox-snow", "eynsham", "sf-xl-v2", "sf-landmark", "st-lucia"])
def test_counts(tmp_path, monkeypatch, name):
    folder, within, *names = TREES[name]
    root = named_tree(tmp_path / folder / within, *names, DATABASE_UTM, QUERIES_UTM)
    said = [
        f"{least:,}" if least == most else f"{least:,} to {most:,}"
        for least, most in BENCHMARKS[name].limits
    ]
    refused(
        f"{name}: expected {said[0]} database images and {said[1]} queries, found 3 database "
        "images and 4 queries; --allow-subset takes them",
        name,
        tmp_path,
    )
    found = small(name, root)
    assert found.is_subset and "published" not in "".join(found.describe())


def test_rounded_counts(tmp_path, monkeypatch):
    """The small version of SF-XL is not SF-XL; nor is one that has more."""
    root = named_tree(tmp_path / "test", "database", "queries_v1", DATABASE_UTM, QUERIES_UTM)
    for limits, is_whole in (((2, 3), True), ((3, 4), True), ((4, 9), False)):
        set_counts(monkeypatch, "sf-xl-v1", None, 4, about_database=limits)
        assert small("sf-xl-v1", root).is_subset is not is_whole
        if is_whole:
            assert not read_benchmark("sf-xl-v1", root).is_subset
    refused("expected 4 to 9 database images and 4 queries, found 3", "sf-xl-v1", root)
    set_counts(monkeypatch, "sf-xl-v1", None, 4, about_database=(1, 2))
    refused_subset("expected 1 to 2 .* found 3 .*, which is more than", "sf-xl-v1", root)


def test_another_condition_is_named(tmp_path, monkeypatch):
    """Queries of the sun in the folder of the rain."""
    named_tree(tmp_path / "svox/images/test", "gallery", "queries_rain", DATABASE_UTM, QUERIES_UTM)
    set_counts(monkeypatch, "svox-sun", 3, 4)
    refused_subset("4 queries, which are those of svox-sun", "svox-rain", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("svox-sun", "folders gallery and queries_sun, here or in images/test"),
        ("sf-xl-occlusion", "folders database and queries_occlusion, here or in processed/test"),
        ("amstertime", "folders database and queries, here or in images/test"),
    ],
)
def test_other_layouts(tmp_path, name, expected):
    write_images(tmp_path / "images" / "test" / "gallery", [labelled_name(*DATABASE_UTM[0])])
    write_images(tmp_path / "new", ["0001.png"])
    refused_subset(rf"{name}: expected {expected}, .*; found none", name, tmp_path)


def test_names_without_positions(tmp_path):
    for folder in ("database", "queries"):
        write_images(tmp_path / "test" / folder, ["0001.jpg", "0002.jpg"])
    message = "database: expected @utm_east@utm_north@ in file names, found 0001.jpg"
    refused_subset(message, "st-lucia", tmp_path)


def test_near_names(tmp_path):
    for name, near in (
        ("svox", "svox-sun"),
        ("svox_night", "svox-night"),
        ("stlucia", "st-lucia"),
        ("AmsterTime", "amstertime"),
        ("sf_xl_v1", "sf-xl-v1"),
    ):
        refused(f"unknown name '{name}'; closest: .*{near}", name, tmp_path)


def test_help_lists_every_name():
    text = EvaluationConfig.__doc__
    text = text[text.index("dataset: ") : text.index("data_dir: ")]
    said = re.split(r",\s+|\s+or\s+", text[text.index("): ") + 3 :].strip(" .\n"))
    assert sorted(said) == sorted(BENCHMARKS)


def test_published_beside():
    """MixVPR's own rows come first; no method twice."""
    for protocol in BENCHMARKS.values():
        methods = [row.method for row in protocol.published]
        others = [method for method in methods if not method.startswith("MixVPR")]
        assert methods == [m for m in methods if m not in others] + others
        assert len(set(methods)) == len(methods)
    rows = {row.method: row.recall[1] for row in BENCHMARKS["svox-night"].published}
    assert rows["MixVPR 4096"] == 64.4 and rows["EigenPlaces 2048"] == 58.9
    of_conditions = [BENCHMARKS[f"svox-{name}"].num_queries for name in SVOX[1:]]
    assert sum(of_conditions) == 4_356  # as CricaVPR's authors count them
