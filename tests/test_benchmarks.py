"""Every benchmark, read from small trees in the authors' own layouts."""

from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import (
    PITTS_DATABASE,
    PITTS_DATABASE_UTM,
    PITTS_POSITIVES,
    PITTS_QUERIES,
    PITTS_QUERIES_UTM,
    downloader_tree,
    labelled_name,
    listed,
    pittsburgh_tree,
    set_counts,
    small,
    tokyo_tree,
    vpr_bench_tree,
    write_images,
)

from mixvpr_jax.datasets import BENCHMARKS, read_benchmark, read_folder_pair
from mixvpr_jax.datasets.positions import positives_within
from mixvpr_jax.errors import InputError


def test_pittsburgh_as_its_authors_lay_it_out(tmp_path, monkeypatch):
    root = pittsburgh_tree(tmp_path / "Pittsburgh")
    protocol = set_counts(monkeypatch, "pitts30k-test", 6, 4)
    found = read_benchmark("pitts30k-test", root)
    assert found.database == tuple(root / name for name in PITTS_DATABASE)
    assert found.queries == tuple(root / "queries_real" / name for name in PITTS_QUERIES)
    assert listed(found.positives) == PITTS_POSITIVES  # at exactly 25 m, and queries without any
    np.testing.assert_array_equal(found.database_utm, PITTS_DATABASE_UTM)
    np.testing.assert_array_equal(found.queries_utm, PITTS_QUERIES_UTM)
    assert found.protocol is protocol and not found.is_subset
    assert "pitts30k_test.mat" in found.layout
    assert read_benchmark("pitts30k-test", tmp_path).database == found.database


@pytest.mark.parametrize("name", ["pitts30k-val", "pitts250k-val", "pitts250k-test"])
def test_each_split_has_its_own_struct(tmp_path, name):
    root = pittsburgh_tree(tmp_path, stem=name.replace("-", "_"))
    found = small(name, root)
    assert listed(found.positives) == PITTS_POSITIVES
    assert found.is_subset == (BENCHMARKS[name].num_database is not None)


def test_struct_of_another_repository(tmp_path):
    pittsburgh_tree(tmp_path / "images")
    elsewhere = tmp_path / "repository" / "datasets" / "Pittsburgh"
    elsewhere.mkdir(parents=True)
    (tmp_path / "images" / "datasets" / "pitts30k_test.mat").rename(elsewhere / "pitts30k_test.mat")
    for truth in (tmp_path / "repository", elsewhere, elsewhere / "pitts30k_test.mat"):
        found = small("pitts30k-test", tmp_path / "images", ground_truth=truth)
        assert listed(found.positives) == PITTS_POSITIVES


def test_pittsburgh_as_the_downloader_lays_it_out(tmp_path):
    root = downloader_tree(tmp_path / "pitts30k", "test", PITTS_DATABASE_UTM, PITTS_QUERIES_UTM)
    for folder in (tmp_path, root, root / "images" / "test"):
        found = small("pitts30k-test", folder)
        near = {
            query.name.split("@")[7]: [found.database[i].name.split("@")[7] for i in positives]
            for query, positives in zip(found.queries, found.positives, strict=True)
        }
        assert near == {"0": ["0"], "1": ["1"], "2": [], "3": []}
        assert found.layout.startswith("VPR-datasets-downloader's")


def test_tokyo_says_jpg_and_is_png(tmp_path):
    found = small("tokyo247", tokyo_tree(tmp_path / "tokyo247"))
    assert [path.suffix for path in found.database] == [".png"] * 4
    assert [path.name for path in found.queries] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert listed(found.positives) == [[0], [1], [2]]
    assert found.conditions == {"light": ["day", "sunset", "night"]}
    (tmp_path / "tokyo247" / "247query_subset_v2" / "00002.csv").unlink()
    assert small("tokyo247", tmp_path).conditions == {}


@pytest.mark.parametrize(
    ("name", "folder", "stem"),
    [
        ("sped", "SPEDTEST", "SPED"),
        ("essex", "ESSEX3IN1_dataset", "ESSEX"),
        ("crossseason", "CrossSeason_CoHOG_Dataset", "CrossSeason"),
        ("crossseason", "CrossSeasons", "CrossSeasons"),
        ("inria", "inria_holidays", "Inria"),
    ],
)
def test_vpr_bench(tmp_path, monkeypatch, name, folder, stem):
    set_counts(monkeypatch, name, 3, 3)
    truth = tmp_path / "gsv-cities" / "datasets" / {"Inria": "InriaHolidays"}.get(stem, stem)
    root = vpr_bench_tree(tmp_path / "VPR-Bench" / folder, stem, [[0], [1], [2]], truth)
    found = read_benchmark(name, root.parent, ground_truth=tmp_path / "gsv-cities")
    assert listed(found.positives) == [[0], [1], [2]]
    assert found.queries[2] == root / "query" / "0002.jpg" and found.conditions == {}


@pytest.mark.parametrize("split", ["train", "val"])
def test_another_split_is_no_subset(tmp_path, monkeypatch, split):
    root = downloader_tree(tmp_path / "pitts30k", split, PITTS_DATABASE_UTM, PITTS_QUERIES_UTM)
    monkeypatch.chdir(root / "images" / split)
    for folder in (root / "images" / split, Path()):
        with pytest.raises(InputError, match="expected .* images/test/database"):
            small("pitts30k-test", folder)


def test_sped_as_the_downloader_lays_it_out(tmp_path):
    for folder in ("database", "queries"):
        names = [f"@0@{1000 * place}@@@@@{place:04d}@@@@@@@@.jpg" for place in range(3)]
        write_images(tmp_path / "sped" / "images" / "test" / folder, names)
    found = small("sped", tmp_path)
    assert listed(found.positives) == [[0], [1], [2]] and found.database_utm is None


def test_a_subset_is_marked_and_its_indices_follow(tmp_path, monkeypatch):
    set_counts(monkeypatch, "pitts30k-test", 6, 4)
    root = pittsburgh_tree(tmp_path)
    assert not small("pitts30k-test", root).is_subset  # as nothing is missing
    (root / PITTS_DATABASE[0]).unlink()
    (root / "queries_real" / PITTS_QUERIES[2]).unlink()
    found = small("pitts30k-test", root)
    assert found.is_subset and len(found.database) == 5 and len(found.queries) == 3
    assert listed(found.positives) == [[], [0], []]
    np.testing.assert_array_equal(found.database_utm, PITTS_DATABASE_UTM[1:])


def test_folder_pairs(tmp_path):
    write_images(tmp_path / "town" / "database", [labelled_name(0, 0), labelled_name(400, 0)])
    write_images(tmp_path / "town" / "queries", [labelled_name(7, 24), labelled_name(0, 9)])
    pair = tmp_path / "town" / "database", tmp_path / "town" / "queries"
    found = read_folder_pair(*pair)
    assert found.protocol.name == "town" and found.protocol.radius_m == 25
    assert listed(found.positives) == [[0], [0]]
    assert listed(read_folder_pair(*pair, radius_m=10).positives) == [[0], []]
    write_images(tmp_path / "plain", ["a.jpg"])
    plain = read_folder_pair(tmp_path / "plain", tmp_path / "plain")
    assert plain.positives is None and plain.protocol.ground_truth == "none"
    write_images(tmp_path / "town" / "more" / "queries", ["b.jpg"])
    other = read_folder_pair(tmp_path / "plain", tmp_path / "town" / "more" / "queries")
    assert other.protocol.name == "queries in plain"


def test_positives_are_those_of_the_rule_itself():
    """On a grid of metres, where many distances are 25 exactly; far from zero, as UTM is."""
    random = np.random.default_rng(0)
    database = random.integers(0, 300, (2000, 2)) + np.array([585_000.0, 4_477_000.0])
    queries = random.integers(0, 300, (200, 2)) + np.array([585_000.0, 4_477_000.0])
    squared = ((queries[:, None] - database) ** 2).sum(2)
    assert (squared == 625).sum() > 50
    for found, row in zip(positives_within(queries, database, 25.0), squared, strict=True):
        np.testing.assert_array_equal(found, np.flatnonzero(row <= 625))
    assert [f.tolist() for f in positives_within(queries[:2], np.empty((0, 2)), 25.0)] == [[], []]


def test_published_rows_stand_at_their_own_protocol():
    rows = {
        name: {p.method: p.recall[1] for p in BENCHMARKS[name].published} for name in BENCHMARKS
    }
    assert rows["msls-val"]["MixVPR 4096"] == 88.2 and rows["msls-val-all"]["MixVPR 4096"] == 83.4
    assert rows["nordland"] == {"MixVPR 4096, paper": 58.4}
    assert rows["nordland-full"] == {"MixVPR 4096": 76.2} and rows["nordland-selavpr"] == {}
    assert len({(p.num_database, p.num_queries) for p in BENCHMARKS.values()}) >= 13
    assert all(name == protocol.name for name, protocol in BENCHMARKS.items())
