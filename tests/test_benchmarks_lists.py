"""Lists of .npy in each layout that users have, with as many images as the protocols say."""

import unicodedata

import numpy as np
import pytest
from benchmark_trees import (
    MSLS_DATABASE,
    MSLS_QUERIES,
    PITTS_POSITIVES,
    listed,
    msls_tree,
    object_array,
    pittsburgh_tree,
    refused_subset,
    small,
    vpr_bench_tree,
    write_image,
    write_lists,
    write_msls_lists,
)

from mixvpr_jax import InputError
from mixvpr_jax.datasets import read_benchmark


def touch(root, names):
    """Images that are listed, and never opened."""
    for folder in {name.rpartition("/")[0] for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()


def msls_names(part, count):
    return [f"{('cph', 'sf')[i % 3 == 0]}/{part}/images/{part[0]}{i:05d}.jpg" for i in range(count)]


def pittsburgh_names(count, folder=""):
    return [f"{folder}00{i % 5}/{i:06d}_pitch1_yaw1.jpg" for i in range(count)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """All images of MSLS-val, and of both splits of Pittsburgh 30k."""
    root = tmp_path_factory.mktemp("images")
    touch(root / "msls-val", [*msls_names("database", 18_871), *msls_names("query", 747)])
    queries = pittsburgh_names(7_608, "queries_real/")
    touch(root / "pitts30k", [*pittsburgh_names(10_000), *queries])
    return root


PAIRS = [np.array([query, query + 7]) for query in range(740)]


@pytest.mark.parametrize(
    ("names", "queries", "chosen", "prefix"),
    [
        (("dbImages", "qImages", "gt_25m"), 740, False, ""),  # OpenVPRLab and Bag-of-Queries
        (("ref_image_names", "query_image_names", "ground_truth_25m"), 740, False, ""),
        (("dbImages", "qImages", "gt"), 740, False, "train_val/"),
        (("dbImages", "qImages", "pIdx"), 747, True, "train_val/"),  # MixVPR, SALAD
    ],
)
def test_msls_val_in_every_layout(tmp_path, images, names, queries, chosen, prefix):
    """The lists may name train_val where there is none."""
    lists = msls_names("database", 18_871), msls_names("query", queries)
    asked = np.arange(7, 747) if chosen else np.arange(740)
    for name, of in zip(names, lists, strict=False):
        np.save(tmp_path / f"msls_val_{name}.npy", np.array([f"{prefix}{one}" for one in of]))
    np.save(tmp_path / f"msls_val_{names[2]}.npy", object_array(PAIRS))
    if chosen:
        np.save(tmp_path / "msls_val_qIdx.npy", asked)
    found = read_benchmark("msls-val", images, ground_truth=tmp_path)
    assert (len(found.database), len(found.queries)) == (18_871, 740) and not found.is_subset
    assert found.queries[0] == images / "msls-val" / lists[1][asked[0]]
    assert listed(found.positives)[3] == [3, 10]
    assert found.conditions["city"][:4] == ["sf" if i % 3 == 0 else "cph" for i in asked[:4]]
    truth = f"msls_val_{names[2]}.npy"
    assert found.protocol.ground_truth.startswith(truth) and truth in found.layout
    assert any("88.2" in line for line in found.describe())


def test_msls_lists_of_two_repositories_in_one_folder(tmp_path):
    """One layout selects its queries by qIdx, the other lists only those that count."""
    root = msls_tree(write_msls_lists(tmp_path))
    np.save(root / "msls_val_gt_25m.npy", object_array([np.array([2])] * 4))
    assert listed(small("msls-val", root).positives) == [[0, 1], [1], [3]]
    (root / "msls_val_qIdx.npy").unlink()
    assert listed(small("msls-val", root).positives) == [[2]] * 4
    assert [query.stem for query in small("msls-val", root).queries][2] == "cq3"


def test_msls_lists_that_are_not_all_there(tmp_path):
    root = msls_tree(write_msls_lists(tmp_path))
    for name in ("qIdx", "pIdx"):
        (root / f"msls_val_{name}.npy").unlink()
    message = r"msls_val_dbImages.npy: expected beside .*pIdx.*; or msls_val_gt_25m.*some of them"
    refused_subset(message, "msls-val", root)
    np.save(root / "msls_val_gt_25m.npy", object_array([np.array([2])] * 3))
    message = "msls_val_gt_25m.npy: expected the positives of 4 queries, found 3 entries"
    refused_subset(message, "msls-val", root)


@pytest.mark.parametrize(
    ("name", "database", "queries", "published", "truth"),
    [
        ("pitts30k-val", 10_000, 7_608, "", "gt_25m"),
        ("pitts30k-test", 10_000, 6_816, "91.6", "gt"),
    ],
)
def test_pittsburgh_by_lists(tmp_path, images, name, database, queries, published, truth):
    stem = name.replace("-", "_")
    lists = pittsburgh_names(database), pittsburgh_names(queries, "queries_real/")
    positives = [np.array([query, query + 1]) for query in range(queries)]
    write_lists(tmp_path, stem, *lists, positives, gt=truth)
    found = read_benchmark(name, images, ground_truth=tmp_path)
    assert not found.is_subset and listed(found.positives)[9] == [9, 10]
    assert found.queries[9] == images / "pitts30k" / lists[1][9]
    lines = "".join(found.describe())
    assert f"ground truth: {stem}_{truth}.npy, a list" in lines
    assert published in lines and ("published" in lines) is bool(published)
    assert "dbStruct" not in lines + found.layout and f"{stem}_{truth}.npy" in found.layout


def test_pittsburgh_lists_of_queries_in_their_own_folder(tmp_path):
    root = pittsburgh_tree(tmp_path / "Pittsburgh")
    (root / "datasets" / "pitts30k_test.mat").unlink()
    names = [path.relative_to(root / "queries_real") for path in root.rglob("queries_real/*/*.jpg")]
    lists = ["000/000820_pitch1_yaw1.jpg"], sorted(map(str, names))[:1]
    write_lists(root, "pitts30k_test", *lists, [PITTS_POSITIVES[0]])
    assert small("pitts30k-test", root).queries[0].parent.parent.name == "queries_real"


def test_a_downloaders_pittsburgh_is_no_struct(tmp_path):
    for side in ("database", "queries"):
        touch(tmp_path / "images" / "test" / side, ["@585000@4477000@17@T@@@@@@@@@@@.jpg"])
    found = small("pitts30k-test", tmp_path)
    assert found.protocol.ground_truth == "@utm_east@utm_north@ in file names"
    assert "published" not in "".join(found.describe()) and found.is_subset


def test_names_of_other_cities_are_no_msls_val(tmp_path):
    root = msls_tree(tmp_path)
    lists = [name.replace("cph", "miami") for name in MSLS_DATABASE], MSLS_QUERIES
    write_lists(root, "msls_val", *lists, [[0]] * 4, gt="gt_25m")
    message = "msls_val_dbImages.npy: expected names CITY/query/images/KEY.jpg, found 'miami/"
    refused_subset(message, "msls-val", root)


def test_a_file_of_ground_truth_is_the_one_that_is_read(tmp_path):
    root = vpr_bench_tree(tmp_path, "SPED", [[0], [1], [2]])
    np.save(root / "SPED_gt_25m.npy", object_array([[0, 1], [0, 1, 2], [1, 2]]))
    for name, positives in (("gt", [[0], [1], [2]]), ("gt_25m", [[0, 1], [0, 1, 2], [1, 2]])):
        found = small("sped", root, ground_truth=root / f"SPED_{name}.npy")
        assert listed(found.positives) == positives
    np.save(root / "SPED_gt_tolerance5.npy", object_array([[0, 1, 2]] * 3))
    with pytest.raises(InputError, match=r"SPED_gt_tolerance5.npy: expected ground truth of sped"):
        small("sped", root, ground_truth=root / "SPED_gt_tolerance5.npy")


@pytest.mark.parametrize(("on_disk", "said"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_that_a_mac_wrote(tmp_path, on_disk, said):
    """Which takes letters apart, in names of folders and of images."""
    names = ["Köln/Süd/ä.jpg", "Köln/b.jpg", "Köln/ü.jpg", "ö/é.jpg"]
    for name in names:
        write_image(tmp_path / unicodedata.normalize(on_disk, name).replace("ü.jpg", "ü.png"))
    listed_names = [unicodedata.normalize(said, name) for name in names]
    write_lists(tmp_path, "SPED", listed_names, listed_names[:1], [[0]])
    found = small("sped", tmp_path)
    assert len(found.database) == 4 and all(path.is_file() for path in found.database)
    assert found.queries == found.database[:1]


def test_two_images_whose_names_look_alike(tmp_path):
    names = ["é.jpg", "e\u0301.jpg"]
    for name in names:
        write_image(tmp_path / name)
    write_image(tmp_path / "e\u0301.bmp")
    write_lists(tmp_path, "SPED", names, names[1:], [[0]])
    assert [path.name for path in small("sped", tmp_path).database] == names
    (tmp_path / names[0]).unlink()
    assert [path.name for path in small("sped", tmp_path).database] == names[1:] * 2
