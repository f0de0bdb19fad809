"""Preparing data that is killed, or on a full disk; prepared data that are not whole."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prepared_cities import ROOT, VERSION, open_both, prepare_command
from tables import names_of

from mixvpr_jax.data import prepare, tfds_builder
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.loader import Batches, read_batches
from mixvpr_jax.data.prepare import prepare_gsv_cities
from mixvpr_jax.data.sources import Sampler, open_source
from mixvpr_jax.errors import InputError


def test_a_full_disk(cities_folder, tmp_path, monkeypatch, capsys):
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
        prepare_gsv_cities(cities_folder, tmp_path)
    assert not (tmp_path / VERSION).exists()
    with pytest.raises(InputError, match="expected GSV-Cities"):
        open_source(DataConfig(tmp_path, ("Rome",), 2, 2, 2))
    capsys.readouterr()
    made = prepare_gsv_cities(cities_folder, tmp_path, progress=True)
    assert made.num_images == 44
    assert " 44/44 " in capsys.readouterr().err.splitlines()[-1]  # whole files count, too
    assert len(written) == len(set(written)) == 4
    info = json.loads((made.folder / "dataset_info.json").read_text())
    assert [split["shardLengths"] for split in info["splits"]] == [["16"], ["20"], ["8"]]
    assert open_source(DataConfig(tmp_path, ("Rome", "Zurich"), 2, 2, 2))
    assert [path.name for path in (tmp_path / "gsv_cities").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("changed", ["images", "order"])
def test_what_a_killed_call_left_of_other_files_or_rows(
    cities_folder, tmp_path, monkeypatch, changed
):
    """Files hold other rows then: an image that was fetched again has another size."""

    def write(self, path, examples):
        if "00002" in str(path):
            raise RuntimeError("killed")
        return of_tfds(self, path, examples)

    root = shutil.copytree(cities_folder, tmp_path / "folder")
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


def test_too_little_space_is_said_before(cities_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"expected 0\.00 GB of free space, found 0\.00 GB"):
        prepare_gsv_cities(cities_folder, tmp_path / "new" / "output")
    assert not list(tmp_path.iterdir())


def test_killed_and_begun_again(cities_folder, prepared, tmp_path):
    process = subprocess.Popen(
        prepare_command(cities_folder, tmp_path), cwd=ROOT, stderr=subprocess.PIPE
    )
    while not list(tmp_path.glob("gsv_cities/.*.partial/*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / VERSION).exists()
    again = subprocess.run(prepare_command(cities_folder, tmp_path), cwd=ROOT, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert b"3 cities, 11 places, 44 images\nsha256" in again.stdout
    assert b" 44/44 " in again.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "gsv_cities").iterdir()] == ["1.0.0"]
    for table in ("Rome", "Zurich", "Bangkok"):
        name = f"{VERSION}/Dataframes/{table}.csv"
        assert (tmp_path / name).read_bytes() == (prepared[0] / name).read_bytes()
    _, (plain, stored) = open_both(cities_folder, tmp_path)
    assert all(plain.read(image) == stored.read(image) for image in range(36))


def test_another_version(cities_folder, prepared, tmp_path):
    shutil.copytree(prepared[1].folder, tmp_path / "gsv_cities" / "0.9.0")
    named = tmp_path / "gsv_cities"
    for root in (tmp_path, named, named / "0.9.0"):
        with pytest.raises(InputError, match=r"expected version 1\.0\.0 .* found 0\.9\.0"):
            open_source(DataConfig(root, ("Rome",), 2, 2, 2))
    made = prepare_gsv_cities(cities_folder, tmp_path)  # as the line says to
    assert sorted(path.name for path in named.iterdir()) == ["0.9.0", "1.0.0"]
    assert open_source(DataConfig(tmp_path, ("Rome",), 2, 2, 2)).root == str(made.folder)


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
def test_a_prepared_table_is_not_to_be_edited(cities_folder, prepared, tmp_path, edit):
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


def test_without_tensorflow_datasets(cities_folder, prepared, tmp_path, monkeypatch):
    _, _, _, *arguments = prepare_command(cities_folder, tmp_path / "out")
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


def test_prepared_already(cities_folder, prepared):
    with pytest.raises(InputError, match=r"1\.0\.0: prepared already; remove it"):
        prepare_gsv_cities(cities_folder, prepared[0])
    with pytest.raises(InputError, match=r"gs:/.*expected a folder of this machine"):
        prepare_gsv_cities(cities_folder, Path("gs://bucket/folder"))


def test_a_city_that_was_not_prepared(cities_folder, tmp_path):
    prepare_gsv_cities(cities_folder, tmp_path, cities=("Rome",))
    with pytest.raises(InputError, match=r"Bangkok\.csv: no such city"):
        open_source(DataConfig(tmp_path, ("Bangkok",), 2, 2, 2))


def test_wrong_input_is_one_line(tmp_path):
    command = prepare_command(tmp_path / "nowhere", tmp_path / "out")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "expected GSV-Cities (Dataframes and Images)" in ended.stderr
    assert not (tmp_path / "out").exists()
