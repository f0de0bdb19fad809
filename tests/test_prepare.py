"""GSV-Cities as ArrayRecord: the same places and bytes, in the same order, whatever happens."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image
from runs import tiny_config
from stores import put
from tables import names_of, row, write_city, write_table

from mixvpr_jax.data import prepare, tfds_builder
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.gsv_cities import Row
from mixvpr_jax.data.loader import Batches, read_batches
from mixvpr_jax.data.prepare import City, prepare_gsv_cities
from mixvpr_jax.data.sources import FolderSource, PreparedSource, Sampler, import_tfds, open_source
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.config import ValidationConfig
from mixvpr_jax.training.loop import Setup

ROOT = Path(__file__).parent.parent
VERSION = "gsv_cities/1.0.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_city(root, "Rome", places=5)
    write_city(root, "Zurich", places=2)
    return write_city(root, "Bangkok", places=4)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared")
    return output, prepare_gsv_cities(folder, output)


def open_both(folder, output, cities=("Rome", "Bangkok"), **options):
    configs = [DataConfig(root, cities, 2, 2, 2, **options) for root in (folder, output)]
    return configs, [open_source(config) for config in configs]


def test_what_is_made(folder, prepared):
    output, made = prepared
    assert (made.num_cities, made.num_places, made.num_images, made.num_skipped) == (3, 11, 44, 0)
    assert made.folder == output / VERSION
    assert [path.name for path in output.iterdir()] == ["gsv_cities"]
    assert [path.name for path in (output / "gsv_cities").iterdir()] == ["1.0.0"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made.folder, check=True)


@pytest.mark.parametrize("cities", [("Rome", "Bangkok"), ("Zurich",), ("Bangkok", "Zurich")])
def test_the_same_places_and_files(folder, prepared, cities):
    for at in (prepared[0], prepared[0] / "gsv_cities", prepared[1].folder):
        _, (plain, stored) = open_both(folder, at, cities)
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


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_same_batches(folder, prepared, num_workers):
    found = []
    for config, source in zip(*open_both(folder, prepared[0]), strict=True):
        batches = Batches(source, Sampler(source.places, config, 3), (20, 24), 4, 8, True)
        read = read_batches(batches, num_workers=num_workers)
        found.append([[np.array(array) for array in batch[:4]] for batch in read])
    plain, stored = found
    assert len(plain) == len(stored) == 8
    for one, other in zip(plain, stored, strict=True):
        for array, twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, twin)


def test_any_reader_of_tfds_understands_it(prepared, folder):
    import tensorflow_datasets as tfds

    stored = tfds.builder("gsv_cities", data_dir=prepared[0])
    assert {name: split.num_examples for name, split in stored.info.splits.items()} == {
        "Bangkok": 16,
        "Rome": 20,
        "Zurich": 8,
    }
    raw = {"image": tfds.decode.SkipDecoding()}
    record = stored.as_data_source("Rome", decoders=raw)[6]
    name = names_of(folder)[6]
    assert record["image"] == (folder / name).read_bytes()
    assert (record["place_id"], record["city_id"], record["panoid"]) == (1, b"Rome", b"Rome1-2")
    assert (record["lat"], record["lon"], record["northdeg"]) == (b"41.9", b"12.50", 7)


def test_files_are_cut_by_size(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 3000)
    made = prepare_gsv_cities(folder, tmp_path)
    assert len(list(made.folder.glob("*Rome.array_record*"))) > 3
    _, (plain, stored) = open_both(folder, tmp_path)
    assert all(plain.read(image) == stored.read(image) for image in range(36))
    sizes = np.full(10, 1200)
    rows = [Row.read(tuple(map(str, row(1))), "")] * 10
    shards = City("Rome", rows, [""] * 10, sizes, epath.Path(folder)).shards()
    assert [row for shard in shards for row in shard] == list(range(10))
    assert {len(shard) for shard in shards} <= {1, 2, 3}


def test_tables_as_spreadsheets_write_them(folder, tmp_path):
    """What a blank line moves in one reader of a table it moves in all."""
    root = shutil.copytree(folder, tmp_path / "folder")
    table = root / "Dataframes" / "Rome.csv"
    lines = table.read_text().splitlines()
    table.write_text("\ufeff" + "\n".join([*lines[:3], "", ",,,,,,,", *lines[3:], ""]))
    prepare_gsv_cities(root, tmp_path / "out")
    _, (plain, stored) = open_both(folder, tmp_path / "out")
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


def test_missing_images(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "folder")
    missing = names_of(folder)[2:4]
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
    (config, _), (plain, stored) = open_both(folder, tmp_path / "out")
    assert len(stored.places.names) == 34
    without = replace(config, root=tmp_path / "folder", skip_missing=True)
    plain = open_source(without)
    assert all(plain.read(image) == stored.read(image) for image in range(34))


def test_paths_below_the_home(folder, tmp_path, monkeypatch):
    """No shell replaces the ~ of `--output=~/out`."""
    (tmp_path / "folder").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = prepare_gsv_cities("~/folder", "~/out", cities=("Zurich",))
    assert made.folder == tmp_path / "out" / VERSION and made.num_places == 2


def test_a_full_disk(folder, tmp_path, monkeypatch, capsys):
    """Nothing that could be taken for a data set; what was whole is not written again."""
    written = []

    def write(self, path, examples):
        if "Zurich" in str(path) and not written.count("full"):
            written.append("full")
            Path(path).write_bytes(b"half")
            raise RuntimeError(f"write() failed: {os.strerror(errno.ENOSPC)}; writing {path}")
        written.append(Path(path).name)
        return of_tfds(self, path, examples)

    of_tfds = tfds_builder.ExampleWriter.write
    monkeypatch.setattr(tfds_builder.ExampleWriter, "write", write)
    with pytest.raises(InputError, match=r"No space left .*run the same command to resume"):
        prepare_gsv_cities(folder, tmp_path)
    assert not (tmp_path / VERSION).exists()
    with pytest.raises(InputError, match="expected GSV-Cities"):
        open_source(DataConfig(tmp_path, ("Rome",), 2, 2, 2))
    capsys.readouterr()
    made = prepare_gsv_cities(folder, tmp_path, progress=True)
    assert made.num_images == 44
    assert " 44/44 " in capsys.readouterr().err.splitlines()[-1]  # whole files count, too
    assert len(written) == len(set(written)) == 4
    info = json.loads((made.folder / "dataset_info.json").read_text())
    assert [split["shardLengths"] for split in info["splits"]] == [["16"], ["20"], ["8"]]
    assert open_source(DataConfig(tmp_path, ("Rome", "Zurich"), 2, 2, 2))
    assert [path.name for path in (tmp_path / "gsv_cities").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("changed", ["images", "order"])
def test_what_a_killed_call_left_of_other_files_or_rows(folder, tmp_path, monkeypatch, changed):
    """Files hold other rows then: an image that was fetched again has another size."""

    def write(self, path, examples):
        if "00002" in str(path):
            raise RuntimeError("killed")
        return of_tfds(self, path, examples)

    root = shutil.copytree(folder, tmp_path / "folder")
    first, *_, last = (root / name for name in names_of(root))
    monkeypatch.setattr(prepare, "SHARD_BYTES", 5 * first.stat().st_size)
    of_tfds = tfds_builder.ExampleWriter.write
    monkeypatch.setattr(tfds_builder.ExampleWriter, "write", write)
    with pytest.raises(InputError, match="killed"):
        prepare_gsv_cities(root, tmp_path / "out", cities=["Rome"])
    assert len(list(tmp_path.glob("out/gsv_cities/.*.partial/*Rome*"))) == 2
    if changed == "images":
        end = first.read_bytes()[-50:]
        first.write_bytes(first.read_bytes()[:-50])
        last.write_bytes(last.read_bytes() + end)
    else:
        table = root / "Dataframes" / "Rome.csv"
        header, *rows = table.read_text().splitlines()
        table.write_text("\n".join([header, *rows[4:], *rows[:4]]) + "\n")
    monkeypatch.setattr(tfds_builder.ExampleWriter, "write", of_tfds)
    assert prepare_gsv_cities(root, tmp_path / "out", cities=["Rome"]).num_images == 20
    assert [path.name for path in (tmp_path / "out" / "gsv_cities").iterdir()] == ["1.0.0"]
    _, (plain, stored) = open_both(root, tmp_path / "out", ["Rome"])
    assert all(plain.read(image) == stored.read(image) for image in range(20))


def test_too_little_space_is_said_before(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"expected 0\.00 GB of free space, found 0\.00 GB"):
        prepare_gsv_cities(folder, tmp_path / "new" / "output")
    assert not list(tmp_path.iterdir())


def prepare_command(folder, output):
    options = ["--data-dir", str(folder), "--output", str(output)]
    return [sys.executable, "-m", "mixvpr_jax.data.prepare", "gsv_cities", *options]


def test_killed_and_begun_again(folder, prepared, tmp_path):
    process = subprocess.Popen(prepare_command(folder, tmp_path), cwd=ROOT, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("gsv_cities/.*.partial/*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / VERSION).exists()
    again = subprocess.run(prepare_command(folder, tmp_path), cwd=ROOT, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert b"3 cities, 11 places, 44 images\nsha256" in again.stdout
    assert b" 44/44 " in again.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "gsv_cities").iterdir()] == ["1.0.0"]
    for table in ("Rome", "Zurich", "Bangkok"):
        name = f"{VERSION}/Dataframes/{table}.csv"
        assert (tmp_path / name).read_bytes() == (prepared[0] / name).read_bytes()
    _, (plain, stored) = open_both(folder, tmp_path)
    assert all(plain.read(image) == stored.read(image) for image in range(36))


def test_another_version(folder, prepared, tmp_path):
    shutil.copytree(prepared[1].folder, tmp_path / "gsv_cities" / "0.9.0")
    named = tmp_path / "gsv_cities"
    for root in (tmp_path, named, named / "0.9.0"):
        with pytest.raises(InputError, match=r"expected version 1\.0\.0 .* found 0\.9\.0"):
            open_source(DataConfig(root, ("Rome",), 2, 2, 2))
    made = prepare_gsv_cities(folder, tmp_path)  # as the line says to
    assert sorted(path.name for path in named.iterdir()) == ["0.9.0", "1.0.0"]
    assert open_source(DataConfig(tmp_path, ("Rome",), 2, 2, 2)).root == str(made.folder)


def test_from_an_object_store_and_in_one(folder, tmp_path, bucket, monkeypatch):
    """gs:// by way of fsspec, and of the client that ArrayRecord has of its own."""
    address = put(folder, bucket / "gsv_cities")

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
    _, (plain, stored) = open_both(folder, address)
    assert isinstance(stored, PreparedSource)
    assert stored.root.startswith("gs://bucket/")
    assert all(plain.read(image) == stored.read(image) for image in range(36))


def test_files_that_are_not_whole(prepared, tmp_path):
    folder = shutil.copytree(prepared[1].folder, tmp_path / VERSION)
    shard = folder / "gsv_cities-Rome.array_record-00000-of-00001"
    whole, table = shard.read_bytes(), folder / "Dataframes" / "Rome.csv"
    config = DataConfig(tmp_path, ("Bangkok", "Rome"), 2, 2, 2)
    shard.write_bytes(whole[:-1000])
    line = f"expected {len(whole):,} bytes of Rome, found {len(whole) - 1000:,}; copy it again"
    with pytest.raises(InputError, match=line):
        open_source(config)
    assert open_source(replace(config, cities=("Bangkok",)))
    shard.unlink()
    with pytest.raises(InputError, match=f"1 files of Rome, found no {shard.name}; copy it"):
        open_source(config)
    shard.write_bytes(whole)
    table.write_text(table.read_text() + table.read_text().splitlines()[-1] + "x\n")
    with pytest.raises(InputError, match=r"expected 21 records of Rome, found 20 in dataset_info"):
        open_source(config)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match=r"dataset_info\.json: expected what tfds writes, found K"):
        open_source(config)


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[4:],
        lambda rows: rows[::-1],
        lambda rows: [*rows[:4], *rows[4:8][::-1], *rows[8:]],
    ],
    ids=["left out", "sorted", "exchanged"],
)
def test_a_prepared_table_is_not_to_be_edited(folder, prepared, tmp_path, edit):
    """Its rows number the records: others would give images to the wrong places."""
    path = shutil.copytree(prepared[1].folder, tmp_path / VERSION) / "Dataframes" / "Rome.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *edit(rows)]) + "\n")
    config = DataConfig(tmp_path, ("Rome", "Bangkok"), 2, 2, 2)
    with pytest.raises(
        InputError, match=r"expected Dataframes/Rome\.csv as it was prepared, found"
    ):
        open_source(config)
    assert open_source(replace(config, cities=("Bangkok",)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_record_is_told(prepared, tmp_path, num_workers):
    """Of the same size, so that opening finds nothing; the reader's checksums do."""
    folder = shutil.copytree(prepared[1].folder, tmp_path / VERSION)
    shard = folder / "gsv_cities-Rome.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = bytes(byte ^ 0xFF for byte in content[middle : middle + 4])
    shard.write_bytes(content)
    config = DataConfig(tmp_path, ("Rome",), 2, 2, 2, max_unreadable=0)
    source = open_source(config)
    batches = Batches(source, Sampler(source.places, config, 0), (8, 8), 4, 20, on_host=True)
    with pytest.raises(InputError, match=r"expected whole records of Rome, found a damaged one"):
        list(read_batches(batches, num_workers=num_workers))


WITHOUT_TFDS = """
import runpy, sys
sys.modules["tensorflow_datasets"] = None
runpy.run_module("mixvpr_jax.data.prepare", run_name="__main__", alter_sys=True)
"""


def test_without_tensorflow_datasets(folder, prepared, tmp_path, monkeypatch):
    _, _, _, *arguments = prepare_command(folder, tmp_path / "out")
    command = [sys.executable, "-c", WITHOUT_TFDS, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: prepared data sets: expected tensorflow-datasets, found")
    assert ended.stderr.endswith("; pip install 'mixvpr-jax[tfds]'\n")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'mixvpr-jax\[tfds\]'"):
        open_source(DataConfig(prepared[0], ("Rome",), 2, 2, 2))


def test_prepared_already(folder, prepared):
    with pytest.raises(InputError, match=r"1\.0\.0: prepared already; remove it"):
        prepare_gsv_cities(folder, prepared[0])
    with pytest.raises(InputError, match=r"gs:/.*expected a folder of this machine"):
        prepare_gsv_cities(folder, Path("gs://bucket/folder"))


def test_a_city_that_was_not_prepared(folder, tmp_path):
    prepare_gsv_cities(folder, tmp_path, cities=("Rome",))
    with pytest.raises(InputError, match=r"Bangkok\.csv: no such city"):
        open_source(DataConfig(tmp_path, ("Bangkok",), 2, 2, 2))


def test_wrong_input_is_one_line(tmp_path):
    command = prepare_command(tmp_path / "nowhere", tmp_path / "out")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "expected GSV-Cities (Dataframes and Images)" in ended.stderr
    assert not (tmp_path / "out").exists()
