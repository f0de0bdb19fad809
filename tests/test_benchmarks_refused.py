"""Everything that can be wrong with a benchmark's folders and ground truth."""

import numpy as np
import pytest
import scipy.io
from benchmark_trees import (
    PITTS_DATABASE,
    PITTS_DATABASE_UTM,
    PITTS_QUERIES,
    PITTS_QUERIES_UTM,
    cells,
    downloader_tree,
    msls_downloader_tree,
    msls_tree,
    nordland_downloader_tree,
    nordland_tree,
    object_array,
    pittsburgh_tree,
    refused,
    refused_subset,
    set_counts,
    small,
    vpr_bench_tree,
    write_image,
    write_images,
    write_msls_lists,
    write_struct,
)

from mixvpr_jax.datasets import BENCHMARKS, read_benchmark
from mixvpr_jax.errors import run_command


def test_unknown_names(tmp_path):
    refused(r"unknown name 'pits30k-test'; closest: pitts30k-test", "pits30k-test", tmp_path)
    refused(r"unknown name 'msls'; closest: .*msls-val", "msls", tmp_path)


def test_folders_that_are_not_there(tmp_path):
    refused("absent: expected the folder of sped, found no such", "sped", tmp_path / "absent")
    message = "truth: expected the ground truth of sped, found nothing"
    refused(message, "sped", tmp_path, ground_truth=tmp_path / "truth")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder(tmp_path, name):
    refused(f"{name}: expected .*found n(one|either)", name, tmp_path)


@pytest.mark.parametrize("name", ["pitts30k-val", "pitts30k-test", "pitts250k-test"])
def test_small_trees_are_refused_with_both_counts(tmp_path, name):
    pittsburgh_tree(tmp_path, stem=name.replace("-", "_"))
    protocol = BENCHMARKS[name]
    message = (
        f"{name}: expected {protocol.num_database:,} database images and "
        f"{protocol.num_queries:,} queries, found 6 database images and 4 queries; "
        "--allow-subset takes them"
    )
    refused(message, name, tmp_path)


def test_other_small_trees_are_refused(tmp_path):
    nordland_tree(tmp_path / "Nordland")
    message = "expected 27,592 database images and 2,760 queries, found 20 database images and 2 "
    refused(message, "nordland", tmp_path)
    msls_tree(write_msls_lists(tmp_path / "msls"))
    refused("expected 18,871 .* and 740 queries, found 4 .* and 3 queries", "msls-val", tmp_path)
    message = "expected 18,871 database images and queries, found 4 database images and 4 queries"
    refused(message, "msls-val-all", tmp_path)


def test_counts_of_another_protocol_are_named(tmp_path, monkeypatch):
    set_counts(monkeypatch, "pitts30k-val", 6, 4)
    set_counts(monkeypatch, "nordland", 20, 2)
    set_counts(monkeypatch, "msls-val", 4, 4)
    utm = PITTS_DATABASE_UTM, PITTS_QUERIES_UTM
    downloader_tree(tmp_path / "pitts30k", "test", *utm)
    message = "pitts30k-test: expected .* found 6 .* 4 queries, which are those of pitts30k-val"
    refused_subset(message, "pitts30k-test", tmp_path)
    nordland_downloader_tree(tmp_path / "nordland", 20, step=10)
    for name in ("nordland-full", "nordland-selavpr"):
        refused_subset("found 20 .* 2 queries, which are those of nordland", name, tmp_path)
    msls_downloader_tree(tmp_path / "msls")
    refused_subset("4 queries, which are those of msls-val", "msls-val-all", tmp_path)


def test_more_than_the_protocol_has_is_no_subset(tmp_path, monkeypatch):
    set_counts(monkeypatch, "pitts30k-test", 6, 3)
    pittsburgh_tree(tmp_path)
    message = "expected 6 .* 3 queries, found 6 .* 4 queries, which is more than the benchmark has"
    refused_subset(message, "pitts30k-test", tmp_path)


def test_missing_images_are_all_listed(tmp_path, monkeypatch, capsys):
    set_counts(monkeypatch, "pitts30k-test", 6, 4)
    root = pittsburgh_tree(tmp_path)
    gone = [root / PITTS_DATABASE[1], root / "queries_real" / PITTS_QUERIES[0]]
    for path in gone:
        path.unlink()
    with pytest.raises(SystemExit):
        run_command(lambda: read_benchmark("pitts30k-test", root))
    *listed, line = capsys.readouterr().err.splitlines()
    assert listed == [f"missing: {path}" for path in gone]
    message = f"expected 10 images, found 2 missing, the first {gone[0]}; --allow-subset"
    assert message in line


def test_a_folder_without_any_of_the_images(tmp_path):
    write_struct(tmp_path / "pitts30k_test.mat", ["a.jpg"], ["b.jpg"], [(1e5, 1)], [(2, 1)])
    refused_subset("expected 2 images, found 2 missing", "pitts30k-test", tmp_path)
    write_image(tmp_path / "a.jpg")
    message = "expected 10,000 .* found 1 database images and 0 queries"
    refused_subset(message, "pitts30k-test", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numImages": 7.0}, "expected lists of 7 and 4 images, as .* say, found 6 and 4"),
        ({"numQueries": 5.0}, "expected lists of 6 and 5 images"),
        ({"utmDb": np.zeros((2, 5))}, "expected 2 x 6 metres in dbStruct.utmDb, found 2 x 5"),
        ({"utmQ": np.zeros((4, 2))}, "expected 2 x 4 metres in dbStruct.utmQ, found 4 x 2"),
        ({"utmQ": np.full((2, 4), np.nan)}, "expected positions in metres, found .*not finite"),
        ({"utmQ": cells(["a", "b"])}, "expected 2 x 4 metres in dbStruct.utmQ, found .'a"),
        ({"posDistThr": 10.0}, "expected posDistThr 25 for pitts30k-test, found 10"),
        ({"posDistThr": "far"}, "expected a number in dbStruct.posDistThr, found 'far'"),
        ({"qImageFns": None}, "expected names in dbStruct.qImageFns, found whichSet, dbImageFns"),
        ({"dbImageFns": cells([1.0] * 6)}, "expected names in dbStruct.dbImageFns, found"),
        ({"qImageFns": cells(["../../etc/passwd"] * 4)}, "inside the data folder, found '../"),
        ({"qImageFns": cells(["/etc/passwd"] * 4)}, "inside the data folder, found '/etc"),
        ({"qImageFns": cells(["C:\\a.jpg"] * 4)}, r"inside the data folder, found 'C:"),
        ({"qImageFns": cells(["a\\..\\..\\b.jpg"] * 4)}, "inside the data folder, found 'a"),
        ({"qImageFns": np.zeros((0, 0)), "utmQ": np.zeros((2, 0)), "numQueries": 0.0},
         "expected 10,000 .* found 6 database images and 0 queries"),
    ],
)  # fmt: skip
def test_structs_that_are_wrong(tmp_path, changes, message):
    pittsburgh_tree(tmp_path, **changes)
    refused_subset(message, "pitts30k-test", tmp_path)


def test_degrees_are_recognised(tmp_path):
    degrees = np.array([(40.44 + i / 1000, -79.99) for i in range(6)])
    pittsburgh_tree(tmp_path / "a", utmDb=degrees.T, utmQ=degrees[:4].T)
    message = (
        r"pitts30k_test.mat: expected UTM positions in metres, found what look like degrees of "
        r"latitude and longitude \(40.44, -79.99, all 10 within 0.005\)"
    )
    refused_subset(message, "pitts30k-test", tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected a MATLAB file"),
        (b"no struct at all" * 40, r"expected a MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n",
         r"expected a MATLAB file of version 5 to 7, found 7.3 \(HDF5\)"),
    ],
)  # fmt: skip
def test_files_that_hold_no_struct(tmp_path, content, message):
    root = pittsburgh_tree(tmp_path)
    file = root / "datasets" / "pitts30k_test.mat"
    whole = file.read_bytes()
    file.write_bytes(content)
    refused_subset(f"pitts30k_test.mat: {message}", "pitts30k-test", root)
    file.write_bytes(whole[: len(whole) // 2])
    refused_subset("pitts30k_test.mat: expected", "pitts30k-test", root)


def test_a_mat_file_of_something_else(tmp_path):
    pittsburgh_tree(tmp_path)
    scipy.io.savemat(tmp_path / "datasets" / "pitts30k_test.mat", {"other": 1, "dbStruct": 2.0})
    refused_subset("expected a struct named dbStruct, found none", "pitts30k-test", tmp_path)


@pytest.mark.parametrize("absent", ["dbImages", "qImages", "gt"])
def test_a_missing_list(tmp_path, absent):
    vpr_bench_tree(tmp_path, "SPED", [[0], [1]])
    (tmp_path / f"SPED_{absent}.npy").unlink()
    message = rf"SPED_{absent}.npy.*: expected it beside SPED_.*, found no such file"
    refused_subset(message, "sped", tmp_path)


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        ([[0], [1], [2]], "SPED_gt.npy: expected the positives of 2 queries, found 3 entries"),
        ([[0], [2]], "SPED_gt.npy: query 1: the database has 2 images, .* found 2"),
        ([[0], ["x"]], "SPED_gt.npy: expected whole numbers, found"),
    ],
)
def test_lists_that_are_wrong(tmp_path, positives, message):
    vpr_bench_tree(tmp_path, "SPED", [[0], [1]])
    np.save(tmp_path / "SPED_gt.npy", object_array(positives))
    refused_subset(message, "sped", tmp_path)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "ref/../../x.jpg", "", ".."])
def test_names_that_lead_outside(tmp_path, name):
    vpr_bench_tree(tmp_path, "SPED", [[0], [1]])
    np.save(tmp_path / "SPED_dbImages.npy", np.array(["ref/0000.jpg", name]))
    message = "SPED_dbImages.npy: expected names of images inside the data folder, found"
    refused_subset(message, "sped", tmp_path)


def test_labels_in_one_folder_only(tmp_path):
    write_images(tmp_path / "images" / "test" / "database", ["@5@5@.jpg", "@5000@5@.jpg"])
    write_images(tmp_path / "images" / "test" / "queries", ["a.jpg"])
    message = "queries: expected @utm_east@utm_north@ in file names, found a.jpg"
    refused_subset(message, "pitts30k-test", tmp_path)
    for path in (tmp_path / "images" / "test" / "database").iterdir():
        path.unlink()
    write_images(tmp_path / "images" / "test" / "database", ["b.jpg"])
    message = "expected @utm_east@utm_north@ in file names, found b.jpg"
    refused_subset(message, "pitts30k-test", tmp_path)


def test_images_of_another_format(tmp_path):
    """One of them stands in for a listed image; what is no image does not."""
    vpr_bench_tree(tmp_path, "SPED", [[0], [1]])
    path = tmp_path / "ref" / "0001.jpg"
    path.rename(path.with_suffix(".JPEG"))
    assert small("sped", tmp_path).database[1].name == "0001.JPEG"
    path.with_suffix(".JPEG").rename(path.with_suffix(".txt"))
    assert len(small("sped", tmp_path).database) == 1


@pytest.mark.parametrize("folder", ["SPEDTEST", "nordland", "InriaHolidays"])
def test_the_folder_of_another_benchmark_with_the_same_names(tmp_path, folder):
    """They all call their images ref/0000000.jpg, …: these would pass for ESSEX's."""
    truth = vpr_bench_tree(tmp_path / folder, "ESSEX", [[0], [1]])
    message = f"{folder}: expected the folder of essex, found one that is called as .*'s, whose"
    refused_subset(message, "essex", truth)
    assert len(small("essex", truth.rename(tmp_path / "mine")).queries) == 2
