"""A robot's map in a file: the same map again, or a line on what is wrong with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from searches import unit_vectors
from small_model import SMALL

from mixvpr_jax import ConvAPConfig, InputError, PlaceMap, create_model
from mixvpr_jax.export.engine import EngineModel


def test_a_saved_map_is_the_same_map(tmp_path):
    file = tmp_path / "map.safetensors"
    ours = PlaceMap(skip_recent=np.int64(1), sequence_length=2, threshold=np.float32(0.5))
    for number, row in enumerate(unit_vectors(1030, 8, 0)):
        ours.add(row, f"Straße {number}.jpg")
        if number == 500:
            ours.start_drive()
    ours.save(file)
    again = PlaceMap.load(file)
    assert (again.skip_recent, again.sequence_length, again.threshold) == (1, 2, 0.5)
    assert again.labels == ours.labels and len(again) == 1030
    ours.start_drive()
    for query in unit_vectors(5, 8, 1):
        assert again.locate(query, 3) == ours.locate(query, 3)
    again.save(tmp_path / "again.safetensors")
    ours.save(file)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    arrays = safetensors.numpy.load_file(file)  # by the library alone
    assert arrays["descriptors"].shape == (1030, 8) and arrays["drives"].tolist() == [0, 501, 1030]


def test_an_empty_map_is_saved(tmp_path):
    PlaceMap().save(tmp_path / "map.safetensors")
    again = PlaceMap.load(tmp_path / "map.safetensors")
    assert len(again) == 0 and again.locate(unit_vectors(1, 4, 0)) == []
    again.add(unit_vectors(1, 4, 0))
    assert again.locate(unit_vectors(1, 4, 0))[0].frame == 0


def test_a_map_of_another_model(tmp_path):
    file, model, other = (
        tmp_path / "m.safetensors",
        create_model(SMALL, seed=0),
        create_model(SMALL, seed=1),
    )
    ours = PlaceMap(EngineModel(model, "onnxruntime"))
    ours.add(unit_vectors(1, 16, 0))
    ours.save(file)
    assert (
        PlaceMap.load(file, model).locate(unit_vectors(1, 16, 0))[0].frame == 0
    )  # by another engine
    with pytest.raises(InputError, match=f"{file}: expected a map of the model .* found one of"):
        PlaceMap.load(file, other)
    nameless = PlaceMap()
    nameless.save(file)
    PlaceMap.load(file, other).save(file)  # from now on it is known
    with pytest.raises(InputError, match="load the model that described it"):
        PlaceMap.load(file, model)


@pytest.fixture
def saved(tmp_path):
    ours = PlaceMap()
    for row in unit_vectors(3, 4, 0):
        ours.add(row)
    ours.save(tmp_path / "map.safetensors")
    return tmp_path / "map.safetensors"


def test_files_that_are_no_maps(saved):
    whole = saved.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"PK\x03\x04" + whole):
        saved.write_bytes(content)
        with pytest.raises(InputError, match=f"{saved}: expected a"):
            PlaceMap.load(saved)
    with pytest.raises(InputError, match="expected a map that was saved, found no such file"):
        PlaceMap.load(saved.parent / "none")
    safetensors.numpy.save_file({"descriptors": unit_vectors(3, 4, 0)}, saved)
    with pytest.raises(InputError, match="found another safetensors file"):
        PlaceMap.load(saved)


CONVAP = replace(SMALL, aggregator=ConvAPConfig(4, 1, 4))


@pytest.mark.parametrize(
    "config, change, line",
    [
        (SMALL, {"interpolation": "bicubic"}, "bicubic"),
        (CONVAP, {"aggregator": ConvAPConfig(4, 4, 1)}, r"\[4, 1\].* found .*\[1, 4\]"),
        (CONVAP, {"aggregator": ConvAPConfig(4)}, r"found .*\[1, 4\]"),
    ],
)
def test_a_map_of_the_same_weights_with_other_descriptors(tmp_path, config, change, line):
    file, model = tmp_path / "m.safetensors", create_model(config, seed=0)
    ours = PlaceMap(model)
    ours.add(unit_vectors(1, 16, 0))
    ours.save(file)
    other = create_model(replace(config, **change), seed=0)
    with pytest.raises(InputError, match=f"expected a map of the model .*{line}"):
        PlaceMap.load(file, other)
    assert len(PlaceMap.load(file, model)) == 1


def rewritten(file, change):
    arrays = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, "numpy") as opened:
        ((name, text),) = opened.metadata().items()
    known = json.loads(text)
    known = change(arrays, known) or known
    safetensors.numpy.save_file(
        arrays, file, {name: known if isinstance(known, str) else json.dumps(known)}
    )


@pytest.mark.parametrize(
    "change, line",
    [
        (
            lambda a, k: k.update(version=2),
            "expected a map of version 1 .*: version 2; update",
        ),
        (lambda a, k: k.update(version="x"), "as it was saved"),
        (lambda a, k: "[]", "as it was saved"),
        (lambda a, k: "{}", "as it was saved"),
        (lambda a, k: "[" * 100_000, "as it was saved"),
        (lambda a, k: k["labels"].pop() * 0, "2 labels, 3 descriptors"),
        (lambda a, k: k.update(labels=7), "as it was saved"),
        (lambda a, k: k.pop("model") and None, "as it was saved"),
        (lambda a, k: k.update(skip_recent="1"), "skip_recent"),
        (lambda a, k: k.update(threshold=[]), "threshold"),
        (lambda a, k: a.update(drives=a.pop("descriptors")), "descriptors"),
        (lambda a, k: a.update(drives=np.array([1, 2])), "drives"),
        (lambda a, k: a.update(drives=np.array([0, 9])), "drives"),
        (lambda a, k: a.update(drives=np.array([[0]])), "drives|as it was saved"),
        (lambda a, k: a.update(drives=np.array([0.0, 0.5])), "drives"),
        (lambda a, k: a.update(descriptors=unit_vectors(3, 4, 0) * np.float32(np.nan)), "NaN"),
        (lambda a, k: a.update(descriptors=unit_vectors(3, 4, 0) * np.float32(3)), "length 1"),
        (lambda a, k: a.update(descriptors=unit_vectors(3, 4, 0).astype(np.float16)), "float16"),
        (lambda a, k: a.update(descriptors=unit_vectors(3, 1, 0)[:, 0]), "descriptors"),
    ],
)
def test_maps_that_are_wrong_inside(saved, change, line):
    rewritten(saved, change)
    with pytest.raises(InputError, match=f"{saved}: .*({line})"):
        PlaceMap.load(saved)


def test_labels_beyond_what_a_file_holds(saved):
    before, ours = saved.read_bytes(), PlaceMap.load(saved)
    ours.add(unit_vectors(1, 4, 0), "x" * 100_000_000)
    with pytest.raises(
        InputError, match=f"{saved}: expected labels of 100 MB at most, found: .*large"
    ):
        ours.save(saved)
    assert saved.read_bytes() == before
    with pytest.raises(InputError, match="expected a file to write, found a folder"):
        ours.save(saved.parent)


def test_nothing_is_left_of_a_map_that_cannot_be_written(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="room|space"):
        PlaceMap.load(saved).save(saved)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1
