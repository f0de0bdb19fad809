"""GSV-Cities as ArrayRecord: the same places and bytes, in the same order."""

import shutil
import subprocess
import tempfile
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from etils import epath
from PIL import Image
from prepared_cities import ROOT, VERSION, open_both, prepare_command
from runs import tiny_config
from stores import put
from tables import names_of, row, write_city, write_table

from mixvpr_jax.data import prepare
from mixvpr_jax.data.gsv_cities import Row
from mixvpr_jax.data.loader import Batches, read_batches
from mixvpr_jax.data.prepare import City, prepare_gsv_cities
from mixvpr_jax.data.sources import FolderSource, PreparedSource, Sampler, import_tfds, open_source
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.config import ValidationConfig
from mixvpr_jax.training.loop import Setup


def test_what_is_made(cities_folder, prepared):
    output, made = prepared
    assert (made.num_cities, made.num_places, made.num_images, made.num_skipped) == (3, 11, 44, 0)
    assert made.folder == output / VERSION
    assert [path.name for path in output.iterdir()] == ["gsv_cities"]
    assert [path.name for path in (output / "gsv_cities").iterdir()] == ["1.0.0"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made.folder, check=True)


@pytest.mark.parametrize("cities", [("Rome", "Bangkok"), ("Zurich",), ("Bangkok", "Zurich")])
def test_the_same_places_and_files(cities_folder, prepared, cities):
    for at in (prepared[0], prepared[0] / "gsv_cities", prepared[1].folder):
        _, (plain, stored) = open_both(cities_folder, at, cities)
        assert isinstance(plain, FolderSource)
        assert isinstance(stored, PreparedSource)
        for column in ("city", "place_id", "bounds", "names", "row", "age"):
            assert np.array_equal(getattr(plain.places, column), getattr(stored.places, column))
        for image in range(len(plain.places.names)):
            assert plain.read(image) == stored.read(image)


@pytest.mark.parametrize("city", ["San Francisco", "São Paulo", "St. Gallen", "all", "a+b", "x[1]"])
def test_cities_of_any_name(tmp_path, city):
    """Not only those that tfds takes for the name of a split."""
    prepare_gsv_cities(write_city(tmp_path / "folder", city), tmp_path / "prepared")
    _, (plain, stored) = open_both(tmp_path / "folder", tmp_path / "prepared", (city,))
    assert all(plain.read(image) == stored.read(image) for image in range(12))


def test_no_temporary_files_are_left(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare_gsv_cities(write_city(tmp_path / "folder", "Rome"), tmp_path / "prepared")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_same_batches(cities_folder, prepared, num_workers):
    found = []
    for config, source in zip(*open_both(cities_folder, prepared[0]), strict=True):
        batches = Batches(source, Sampler(source.places, config, 3), (20, 24), 4, 8, True)
        read = read_batches(batches, num_workers=num_workers)
        found.append([[np.array(array) for array in batch[:4]] for batch in read])
    plain, stored = found
    assert len(plain) == len(stored) == 8
    for one, other in zip(plain, stored, strict=True):
        for array, twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, twin)


def test_any_reader_of_tfds_understands_it(prepared, cities_folder):
    import tensorflow_datasets as tfds

    stored = tfds.builder("gsv_cities", data_dir=prepared[0])
    assert {name: split.num_examples for name, split in stored.info.splits.items()} == {
        "Bangkok": 16,
        "Rome": 20,
        "Zurich": 8,
    }
    raw = {"image": tfds.decode.SkipDecoding()}
    record = stored.as_data_source("Rome", decoders=raw)[6]
    name = names_of(cities_folder)[6]
    assert record["image"] == (cities_folder / name).read_bytes()
    assert (record["place_id"], record["city_id"], record["panoid"]) == (1, b"Rome", b"Rome1-2")
    assert (record["lat"], record["lon"], record["northdeg"]) == (b"41.9", b"12.50", 7)


def test_files_are_cut_by_size(cities_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 3000)
    made = prepare_gsv_cities(cities_folder, tmp_path)
    assert len(list(made.folder.glob("*Rome.array_record*"))) > 3
    _, (plain, stored) = open_both(cities_folder, tmp_path)
    assert all(plain.read(image) == stored.read(image) for image in range(36))
    sizes = np.full(10, 1200)
    rows = [Row.read(tuple(map(str, row(1))), "")] * 10
    shards = City("Rome", rows, [""] * 10, sizes, epath.Path(cities_folder)).shards()
    assert [row for shard in shards for row in shard] == list(range(10))
    assert {len(shard) for shard in shards} <= {1, 2, 3}


def test_tables_as_spreadsheets_write_them(cities_folder, tmp_path):
    """What a blank line moves in one reader of a table it moves in all."""
    root = shutil.copytree(cities_folder, tmp_path / "folder")
    table = root / "Dataframes" / "Rome.csv"
    lines = table.read_text().splitlines()
    table.write_text("\ufeff" + "\n".join([*lines[:3], "", ",,,,,,,", *lines[3:], ""]))
    prepare_gsv_cities(root, tmp_path / "out")
    _, (plain, stored) = open_both(cities_folder, tmp_path / "out")
    assert np.array_equal(plain.places.names, stored.places.names)
    assert all(plain.read(image) == stored.read(image) for image in range(36))


def test_names_by_the_number(tmp_path):
    """A table's text does not say how its images are named; the prepared one's does."""
    rows = [row(p, panoid=f"{p}{i}", lat="041.90", northdeg="10.0") for p in (1, 2) for i in "abc"]
    write_table(tmp_path, "Rome", [*rows, row(2, panoid="blank", northdeg="")])
    (tmp_path / "Images" / "Rome").mkdir(parents=True)
    for place in (1, 2):
        for letter in "abc":
            name = f"Rome_000000{place}_2012_03_010_41.9_12.5_{place}{letter}.jpg"
            Image.new("RGB", (8, 8), (place, ord(letter), 0)).save(tmp_path / "Images/Rome" / name)
    blank = tmp_path / "Images" / "Rome" / "Rome_0000002_2012_03_000_41.9_12.50_blank.jpg"
    Image.new("RGB", (8, 8)).save(blank)
    assert prepare_gsv_cities(tmp_path, tmp_path / "out").num_images == 7
    _, (plain, stored) = open_both(tmp_path, tmp_path / "out", ("Rome",))
    assert np.array_equal(plain.places.names, stored.places.names)
    assert all(plain.read(image) == stored.read(image) for image in range(7))
    records_of = import_tfds().builder("gsv_cities", data_dir=tmp_path / "out")
    found = [record["northdeg"] for record in records_of.as_data_source("Rome")]
    assert found == [10] * 6 + [-1]


def test_names_that_no_text_tells(tmp_path):
    """Blank headings, ids of 100,000 and more, accents: a run resumes on the prepared copy."""
    accent = unicodedata.normalize("NFD", "é")
    rows = [
        row(300001 + place, panoid=f"{place}{i}", northdeg="") for place in (0, 1) for i in "ab"
    ]
    write_table(tmp_path, "Rome", [*rows, row(300001, panoid="é", northdeg="10.0")])
    (tmp_path / "Images" / "Rome").mkdir(parents=True)
    names = [f"0000001_2012_03_nan_41.9_12.5_0{letter}" for letter in "ab"]
    names += ["0000002_2012_03_nan_41.9_12.50_1a", "0300002_2012_03_nan_41.9_12.5_1b"]
    for name in (*names, f"0000001_2012_03_10.0_41.9_12.5_{accent}"):
        number = len(list((tmp_path / "Images" / "Rome").iterdir()))
        image = tmp_path / "Images" / "Rome" / f"Rome_{name}.jpg"
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(image)
    prepare_gsv_cities(tmp_path, tmp_path / "out")
    configs, (plain, stored) = open_both(tmp_path, tmp_path / "out", ("Rome",))
    assert np.array_equal(plain.places.names, stored.places.names)
    assert all(plain.read(image) == stored.read(image) for image in range(5))
    runs = [tiny_config(tmp_path, data=data, validation=ValidationConfig()) for data in configs]
    setups = [Setup(config, tmp_path / "none") for config in runs]
    assert setups[0].positions(1) == setups[1].positions(1)
    table = tmp_path / "out" / VERSION / "Dataframes" / "Rome.csv"
    header, *lines = table.read_text().splitlines()
    former = [line.rpartition(",")[0] for line in (header, *lines)]  # of an earlier version
    table.write_text("\n".join(former) + "\n")
    (tmp_path / "out" / VERSION / "SHA256SUMS").unlink()  # of the later table
    assert open_both(tmp_path, tmp_path / "out", ("Rome",))[1][1].places.counts.tolist() == [3, 2]


def test_missing_images(cities_folder, tmp_path):
    shutil.copytree(cities_folder, tmp_path / "folder")
    missing = names_of(cities_folder)[2:4]
    for name in missing:
        (tmp_path / "folder" / name).unlink()
    with pytest.raises(InputError, match="expected 44 images, found 2 missing") as caught:
        prepare_gsv_cities(tmp_path / "folder", tmp_path / "out")
    assert caught.value.details == tuple(f"missing: {name}" for name in missing)
    assert not (tmp_path / "out").exists()
    command = [*prepare_command(tmp_path / "folder", tmp_path / "out"), "--skip-missing"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "3 cities, 11 places, 42 images, 2 missing images left out\n" in ended.stdout
    (config, _), (plain, stored) = open_both(cities_folder, tmp_path / "out")
    assert len(stored.places.names) == 34
    without = replace(config, root=tmp_path / "folder", skip_missing=True)
    plain = open_source(without)
    assert all(plain.read(image) == stored.read(image) for image in range(34))


def test_paths_below_the_home(cities_folder, tmp_path, monkeypatch):
    """No shell replaces the ~ of `--output=~/out`."""
    (tmp_path / "folder").symlink_to(cities_folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = prepare_gsv_cities("~/folder", "~/out", cities=("Zurich",))
    assert made.folder == tmp_path / "out" / VERSION and made.num_places == 2


def test_from_an_object_store_and_in_one(cities_folder, tmp_path, bucket, monkeypatch):
    """gs:// by way of fsspec, and of the client that ArrayRecord has of its own."""
    address = put(cities_folder, bucket / "gsv_cities")

    of_epath = type(epath.Path(address)).stat
    monkeypatch.setattr(
        type(epath.Path(address)),
        "stat",
        lambda path: of_epath(path) if "://" not in str(path) else pytest.fail(f"asked for {path}"),
    )
    made = prepare_gsv_cities(address, tmp_path)
    assert made.num_images == 44
    (bucket / "gsv_cities").rmtree()
    address = put(tmp_path, bucket / "gsv_cities")
    _, (plain, stored) = open_both(cities_folder, address)
    assert isinstance(stored, PreparedSource)
    assert stored.root.startswith("gs://bucket/")
    assert all(plain.read(image) == stored.read(image) for image in range(36))
