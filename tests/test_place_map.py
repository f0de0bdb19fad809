"""The robot's map is an exhaustive search at every moment, and its files are refused when wrong."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import SMALL

from mixvpr_jax import ConvAPConfig, Index, InputError, PlaceMap, create_model, place_map
from mixvpr_jax.export.engine import EngineModel


class Exhaustive:
    """Every frame, and for every step back every frame that it may have been, in float64."""

    def __init__(self, skip_recent, sequence_length):
        self.skip_recent, self.length = skip_recent, sequence_length
        self.frames, self.drive, self.queries = [], 0, []

    def add(self, descriptor):
        self.frames.append((self.drive, descriptor.astype(np.float64)))

    def start_drive(self):
        self.drive, self.queries = self.drive + 1, []

    def locate(self, descriptor, k):
        drives = [drive for drive, _ in self.frames]
        recent = [j for j, drive in enumerate(drives) if drive == self.drive]
        self.queries = [(descriptor.astype(np.float64), len(drives)), *self.queries][: self.length]
        own = self.queries[-1][1] - 1  # of the sequence
        last = max(len(recent) - self.skip_recent, 0)
        recent = {j for n, j in enumerate(recent) if self.skip_recent and (n >= last or j >= own)}
        scored = []
        for j in set(range(len(drives))) - recent:
            best = [
                max(
                    float(np.vecdot(self.frames[back][1], query))
                    for back in range(max(j - 2 * age, 0), j + 1)
                    if drives[back] == drives[j]
                )
                for age, (query, _) in enumerate(self.queries)
            ]
            scored.append((-sum(best) / len(best), j))
        return [(j, -score) for score, j in sorted(scored)[:k]]


# Few directions, so that many frames are equal and others are as far.
DIRECTIONS = [
    (np.array(v, np.float64) / np.linalg.norm(v)).astype(np.float32)
    for v in np.ndindex(3, 3, 2)
    if any(v)
]
direction = st.sampled_from(DIRECTIONS)
step = st.one_of(
    st.tuples(st.just("add"), direction),
    st.tuples(st.just("add"), direction),
    st.tuples(st.just("locate"), direction, st.integers(1, 4)),
    st.tuples(st.just("locate"), direction, st.integers(1, 4)),
    st.tuples(st.just("start_drive")),
    st.tuples(st.just("save and load")),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(step, max_size=60), st.integers(0, 3), st.integers(1, 4))
def test_it_is_an_exhaustive_search_at_every_moment(tmp_path_factory, steps, skip, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place_map, "BLOCK", 4)
        patch.setattr(place_map, "ROWS_AT_ONCE", 3)
        ours = PlaceMap(skip_recent=skip, sequence_length=length)
        truth = Exhaustive(skip, length)
        for what, *arguments in steps:
            if what == "add":
                assert ours.add(arguments[0], f"{len(ours)}") == len(truth.frames)
                truth.add(arguments[0])
            elif what == "locate":
                found = ours.locate(*arguments)
                expected = truth.locate(*arguments)
                assert [match.frame for match in found] == [frame for frame, _ in expected]
                assert [match.label for match in found] == [f"{frame}" for frame, _ in expected]
                scores = [score for _, score in expected]
                np.testing.assert_allclose([m.score for m in found], scores, rtol=0, atol=1e-15)
            elif what == "start_drive":
                ours.start_drive()
                truth.start_drive()
            else:
                file = tmp_path_factory.mktemp("map") / "map.safetensors"
                ours.save(file)
                ours = PlaceMap.load(file)
                truth.start_drive()


def drawn(count, size, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_finds_what_the_index_finds():
    rows, queries = drawn(1500, 96), drawn(20, 96, 1)
    rows[700] = rows[3]  # equal frames, in different blocks
    queries[5] = rows[3]
    ours = PlaceMap()
    for row in rows:
        ours.add(row)
    indices, distances = Index(rows).search(queries, 10)
    for query, expected, distance in zip(queries, indices, distances, strict=True):
        found = ours.locate(query[None], 10)
        assert [match.frame for match in found] == expected.tolist()
        # d² = 2 - 2 s for descriptors whose lengths float32 holds
        np.testing.assert_allclose([m.score for m in found], 1 - distance**2 / 2, atol=3e-7)
        assert all(match.score == match.similarity for match in found)


def test_a_sequence_tells_places_apart_that_look_alike():
    """Frames 3 and 13 are the same picture; those before them are not."""
    rows = drawn(20, 64)
    rows[13] = rows[3]
    alone, sequence = PlaceMap(), PlaceMap(sequence_length=3, threshold=0.9)
    for row in rows:
        alone.add(row)
        sequence.add(row)
    assert [alone.locate(rows[at])[0].frame for at in (11, 12, 13)] == [11, 12, 3]
    accepted = [sequence.locate(rows[at])[0] for at in (11, 12, 13)]
    assert [match.frame for match in accepted] == [11, 12, 13]
    assert [match.accepted for match in accepted] == [False, False, True]  # after three queries
    assert sequence.locate(rows[14])[0].frame == 14
    sequence.start_drive()
    assert sequence.locate(rows[13])[0].frame == 3  # nothing is known of the way here


@pytest.mark.parametrize("stride", [1, 2])
def test_speeds_from_standing_to_twice_the_maps(stride):
    rows = drawn(40, 64)
    ours = PlaceMap(sequence_length=5)
    for row in rows:
        ours.add(row)
    way = [*range(0, 12, stride), *[12] * 5, *range(13, 40, stride)]
    for at in way:
        match = ours.locate(rows[at])[0]
        assert (match.frame, round(match.score, 5)) == (at, 1)


@pytest.mark.parametrize(("skip", "length"), [(1, 5), (3, 10), (5, 5)])
def test_a_sequence_does_not_match_its_own_frames(skip, length):
    """A loop of twenty frames, which is driven twice and changes in between."""
    places, ours = drawn(20, 256), PlaceMap(skip_recent=skip, sequence_length=length)
    for at, noise in enumerate(drawn(40, 256, 1)):
        row = (places[at % 20] + 0.9 * noise) / np.linalg.norm(places[at % 20] + 0.9 * noise)
        ours.add(row)
        found = ours.locate(row)
        if at >= 20 + length:
            assert found[0].frame == at - 20


def test_threads_that_locate_while_another_adds(tmp_path, monkeypatch):
    """The map grows in place: whoever read it then read the memory of others, or none."""
    monkeypatch.setattr(place_map, "BLOCK", 64)
    rows, ours = drawn(64, 1024), PlaceMap()
    for row in rows:
        ours.add(row)

    def read(at):
        ours.save(tmp_path / f"{at}.safetensors")
        return [ours.locate(rows[at])[0].frame for _ in range(50)]

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(read, (5, 40))
        for _ in range(50):
            for row in rows:
                ours.add(row)
        assert list(found) == [[5] * 50, [40] * 50]


def test_recent_frames_of_this_drive_are_skipped():
    rows = drawn(6, 16)
    ours = PlaceMap(skip_recent=3)
    for row in rows[:3]:
        ours.add(row)
    assert ours.locate(rows[2]) == []
    ours.add(rows[3])
    assert [match.frame for match in ours.locate(rows[3], 9)] == [0]
    ours.start_drive()  # the robot stands where it stood
    assert ours.locate(rows[3])[0].frame == 3
    ours.add(rows[3])
    assert ours.locate(rows[3])[0].frame == 3


def test_a_saved_map_is_the_same_map(tmp_path):
    file = tmp_path / "map.safetensors"
    ours = PlaceMap(skip_recent=np.int64(1), sequence_length=2, threshold=np.float32(0.5))
    for number, row in enumerate(drawn(1030, 8)):
        ours.add(row, f"Straße {number}.jpg")
        if number == 500:
            ours.start_drive()
    ours.save(file)
    again = PlaceMap.load(file)
    assert (again.skip_recent, again.sequence_length, again.threshold) == (1, 2, 0.5)
    assert again.labels == ours.labels and len(again) == 1030
    ours.start_drive()
    for query in drawn(5, 8, 1):
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
    assert len(again) == 0 and again.locate(drawn(1, 4)) == []
    again.add(drawn(1, 4))
    assert again.locate(drawn(1, 4))[0].frame == 0


@pytest.mark.parametrize(
    "descriptor, line",
    [
        (np.ones(4) / 2, r"expected a descriptor of 3 values, as in the map, found 4"),
        (np.ones(3), r"expected a descriptor of length 1, found 1\.732"),
        (np.zeros(3), r"expected a descriptor of length 1, found 0"),
        (np.array([1, np.nan, 0]), r"expected finite descriptors, found NaN"),
        (np.eye(3), r"expected one descriptor, \[d\] or \[1, d\], found \[3, 3\]"),
        (np.float32(1), r"expected one descriptor, \[d\] or \[1, d\], found \[\]"),
    ],
)
def test_descriptors_that_do_not_fit(descriptor, line):
    ours = PlaceMap()
    ours.add(np.eye(3)[0])
    for call in (ours.add, ours.locate):
        with pytest.raises(InputError, match=line):
            call(descriptor)
    assert len(ours) == 1
    assert ours.locate(np.eye(3)[0])[0].score == 1


@pytest.mark.parametrize(
    "values, line",
    [
        ({"skip_recent": -1}, "skip_recent: expected a number from 0, found -1"),
        ({"sequence_length": 0}, "sequence_length: expected a number from 1, found 0"),
        ({"sequence_length": 2.0}, r"sequence_length: expected a number from 1, found 2\.0"),
        ({"threshold": 95}, "threshold: expected a similarity, found 95"),
        ({"threshold": float("nan")}, "threshold: expected a similarity, found nan"),
    ],
)
def test_settings_out_of_range(values, line):
    with pytest.raises(InputError, match=line):
        PlaceMap(**values)
    ours = PlaceMap()
    for name, value in values.items():
        setattr(ours, name, value)
    with pytest.raises(InputError, match=line):
        ours.locate(np.eye(3)[0])


def test_a_threshold_in_float32():
    ours = PlaceMap(threshold=np.float32(0.5))
    ours.add(np.eye(3)[0])
    assert ours.locate(np.eye(3)[0])[0].accepted is True
    assert ours.locate(np.eye(3)[1])[0].accepted is False


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64, int])
def test_numbers_of_every_width(kind):
    """As arrays of settings hold them: 50 - uint8(60) is 246 in NumPy."""
    ours = PlaceMap(skip_recent=kind(60), sequence_length=kind(2))
    rows = np.eye(300, dtype=np.float32)
    for row in rows[:50]:
        ours.add(row)
    assert ours.locate(rows[0], kind(3)) == []
    for row in rows[50:]:
        ours.add(row)
    assert [match.frame for match in ours.locate(rows[0], kind(3))] == [0, 1, 2]


def test_a_threshold_in_float16():
    """A score is not rounded to the width of its threshold."""
    ours = PlaceMap(threshold=np.float16(0.9))  # 0.89990234375
    ours.add(np.eye(2)[0])
    assert ours.locate(np.array([0.8998, (1 - 0.8998**2) ** 0.5]))[0].accepted is False


def test_a_map_of_another_model(tmp_path):
    file, model, other = (
        tmp_path / "m.safetensors",
        create_model(SMALL, seed=0),
        create_model(SMALL, seed=1),
    )
    ours = PlaceMap(EngineModel(model, "onnxruntime"))
    ours.add(drawn(1, 16))
    ours.save(file)
    assert PlaceMap.load(file, model).locate(drawn(1, 16))[0].frame == 0  # by another engine
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
    for row in drawn(3, 4):
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
    safetensors.numpy.save_file({"descriptors": drawn(3, 4)}, saved)
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
    ours.add(drawn(1, 16))
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
        (lambda a, k: a.update(descriptors=drawn(3, 4) * np.float32(np.nan)), "NaN"),
        (lambda a, k: a.update(descriptors=drawn(3, 4) * np.float32(3)), "length 1"),
        (lambda a, k: a.update(descriptors=drawn(3, 4).astype(np.float16)), "float16"),
        (lambda a, k: a.update(descriptors=drawn(3, 1)[:, 0]), "descriptors"),
    ],
)
def test_maps_that_are_wrong_inside(saved, change, line):
    rewritten(saved, change)
    with pytest.raises(InputError, match=f"{saved}: .*({line})"):
        PlaceMap.load(saved)


def test_labels_beyond_what_a_file_holds(saved):
    before, ours = saved.read_bytes(), PlaceMap.load(saved)
    ours.add(drawn(1, 4), "x" * 100_000_000)
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
