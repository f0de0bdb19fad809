"""Where links in data folders may lead, and that names in lists stay inside of them."""

import os

import numpy as np
import pytest
from benchmark_trees import small, vpr_bench_tree, write_image
from tables import names_of, row, write_city, write_table

from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.sources import open_source
from mixvpr_jax.datasets.folders import read_folder
from mixvpr_jax.errors import InputError


@pytest.fixture
def root(tmp_path):
    return vpr_bench_tree(tmp_path / "data", "SPED", [[0], [1]])


def moved(path, target):
    """A link where a file or folder was, to where it is now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


def refused(found, read, *arguments, **options):
    message = rf"expected .* inside the data folder, found a link to {found}; if it is yours, name"
    with pytest.raises(InputError, match=message) as raised:
        read(*arguments, **options)
    assert "MIXVPR_LINKED_FOLDERS" in str(raised.value)


def test_links_within_the_data_folder(root):
    moved(root / "ref", root / "elsewhere" / "ref")
    moved(root / "query" / "0000.jpg", root / "elsewhere" / "0000.jpg")
    assert len(small("sped", root).database) == 2


def test_a_data_folder_that_is_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert len(small("sped", tmp_path / "link").database) == 2
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "SPED").symlink_to(root)
    assert len(small("sped", tmp_path / "disk").database) == 2


def test_folders_on_another_disk(root, tmp_path):
    """Where the links in them lead to each other, too."""
    moved(root / "ref", tmp_path / "disk" / "ref")
    moved(root / "ref" / "0001.jpg", tmp_path / "disk" / "ref" / "originals" / "1.jpg")
    assert len(small("sped", root).database) == 2


def test_images_out_of_it_are_refused_until_allowed(root, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    moved(root / "ref" / "0001.jpg", outside / "0001.jpg")
    refused(outside / "0001.jpg", small, "sped", root)
    monkeypatch.setenv("MIXVPR_LINKED_FOLDERS", str(tmp_path / "other"))
    refused(outside / "0001.jpg", small, "sped", root)
    monkeypatch.setenv("MIXVPR_LINKED_FOLDERS", f"{tmp_path / 'other'}:{outside}")
    assert len(small("sped", root).database) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIXVPR_LINKED_FOLDERS", "~/outside")
    assert len(small("sped", root).database) == 2


def test_a_folder_whose_name_begins_alike_is_another(root, tmp_path):
    moved(root / "ref" / "0001.jpg", tmp_path / "data-of-others" / "0001.jpg")
    refused(tmp_path / "data-of-others" / "0001.jpg", small, "sped", root)


def test_links_that_no_list_names_do_not_matter(root, tmp_path):
    (root / "ref" / "notes").symlink_to(tmp_path)
    (root / "ref" / "0009.jpg").symlink_to(write_image(tmp_path / "private.jpg"))
    assert len(small("sped", root).database) == 2


@pytest.mark.parametrize("name", ["ref/\ud800.jpg", "ref/" + "x" * 5000 + ".jpg", "a\0.jpg"])
def test_names_that_no_file_can_have(root, name):
    np.save(root / "SPED_dbImages.npy", np.array(["ref/0000.jpg", name]))
    with pytest.raises(InputError, match="expected names of images inside the data folder"):
        small("sped", root)


# GSV-Cities -------------------------------------------------------------------------------------


def opened(root):
    config = DataConfig(root, ("Rome",), 2, 2, min_images_per_place=2)
    source = open_source(config)
    return [source.read(image) for image in range(len(source.places.names))]


@pytest.mark.parametrize("part", ["Images", "Dataframes", "Images/Rome", "Dataframes/Rome.csv"])
def test_parts_on_another_disk(tmp_path, part):
    root = write_city(tmp_path / "gsv")
    moved(root / part, tmp_path / "disk" / part)
    assert len(opened(root)) == 12


def test_images_elsewhere_in_the_data_folder(tmp_path):
    root = write_city(tmp_path / "gsv")
    moved(root / names_of(root)[3], root / "originals" / "1.jpg")
    assert len(opened(root)) == 12


def test_images_that_are_links_out_of_it(tmp_path, monkeypatch):
    root = write_city(tmp_path / "gsv")
    moved(root / names_of(root)[3], tmp_path / "disk" / "1.jpg")
    refused(tmp_path / "disk" / "1.jpg", opened, root)
    monkeypatch.setenv("MIXVPR_LINKED_FOLDERS", str(tmp_path / "disk"))
    assert len(opened(root)) == 12


@pytest.mark.parametrize(
    "hostile",
    [
        {"city": "../../outside"},
        {"city": ".."},
        {"city": ""},
        {"panoid": "a/../../../../outside/secret"},
        {"panoid": "a\\b"},
        {"panoid": "x" * 300},
    ],
)
def test_tables_that_climb(tmp_path, hostile):
    root = write_city(tmp_path / "gsv")
    write_table(root, "Rome", [row(1, panoid="b"), row(1, **{"panoid": "c"} | hostile)])
    with pytest.raises(
        InputError, match=r"line 3: expected an image's name inside the data folder"
    ):
        opened(root)


# Folders without lists --------------------------------------------------------------------------


def test_links_in_folders_without_lists(tmp_path):
    """Images, folders and the whole may be anywhere."""
    images, disk = tmp_path / "images", tmp_path / "disk"
    for name in ("1.jpg", "a/2.jpg"):
        write_image(images / name)
    moved(images / "1.jpg", disk / "1.jpg")
    moved(images / "a", disk / "a")
    (tmp_path / "link").symlink_to(images)
    assert [path.name for path in read_folder(tmp_path / "link").paths] == ["1.jpg", "2.jpg"]


def test_links_that_lead_back_are_not_followed_forever(tmp_path):
    """Two of them in one folder would be 2^40 ways through it."""
    write_image(tmp_path / "a" / "b" / "1.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "here").symlink_to(".")
    (tmp_path / "again").symlink_to(tmp_path / "a" / "b")
    found = [path.relative_to(tmp_path).as_posix() for path in read_folder(tmp_path).paths]
    assert found == ["a/b/1.jpg"]


def test_a_folder_of_several_names_counts_once(tmp_path):
    """`latest -> run2`, as robots leave it, would give each photo a copy of itself."""
    for name in ("run1/1.jpg", "run2/2.jpg", "run2/cam/3.jpg"):
        write_image(tmp_path / "runs" / name)
    write_image(tmp_path / "disk" / "4.jpg")
    for name, target in (("latest", "run2"), ("zoo", "run1"), ("cam", "run2/cam")):
        (tmp_path / "runs" / name).symlink_to(target)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).symlink_to(tmp_path / "disk")
    (tmp_path / "data").symlink_to("runs")
    for root in (tmp_path / "runs", tmp_path / "data"):
        found = [path.relative_to(root).as_posix() for path in read_folder(root).paths]
        assert found == ["a/4.jpg", "run1/1.jpg", "run2/2.jpg", "run2/cam/3.jpg"]


def test_a_link_to_an_image_of_the_folder_is_no_other_image(tmp_path):
    """`latest.jpg -> 2.jpg`; but DVC and git-annex store equal images once."""
    root, store = tmp_path / "run", tmp_path / "store"
    for name in ("1.jpg", "cam/2.jpg", ".annex/abc.jpg", "blobs/abc"):
        write_image(root / name)
    write_image(store / "abc.jpg")
    links = {
        "latest.jpg": "cam/2.jpg",
        "cam/best.jpg": "../latest.jpg",
        "a.jpg": store / "abc.jpg",
        "b.jpg": store / "abc.jpg",
        "cam/c.jpg": "../.annex/abc.jpg",
        "cam/d.jpg": "../blobs/abc",
        "gone.jpg": "no.jpg",
        "loop.jpg": "loop.jpg",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "link").symlink_to("run")
    left = [
        "1.jpg",
        "a.jpg",
        "b.jpg",
        "cam/2.jpg",
        "cam/c.jpg",
        "cam/d.jpg",
        "gone.jpg",
        "loop.jpg",
    ]
    for folder in (root, tmp_path / "link"):
        paths = read_folder(folder).paths
        assert [path.relative_to(folder).as_posix() for path in paths] == left


def test_a_folder_of_links_alone_is_not_asked_where_each_leads(tmp_path, monkeypatch):
    """As of a subset of a benchmark: 50,000 links took four times as long to list."""
    write_image(tmp_path / "all" / "1.jpg")
    (tmp_path / "subset").mkdir()
    for name in map(str, range(100)):
        (tmp_path / "subset" / f"{name}.jpg").symlink_to(tmp_path / "all" / "1.jpg")
    real, asked = os.path.realpath, []
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or real(path))
    assert len(read_folder(tmp_path / "subset").paths) == 100
    assert len(asked) < 10
