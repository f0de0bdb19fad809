"""The robot's map is an exhaustive search at every moment."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import unit_vectors

from mixvpr_jax import Index, InputError, PlaceMap, place_map


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


def test_it_finds_what_the_index_finds():
    rows, queries = unit_vectors(1500, 96, 0), unit_vectors(20, 96, 1)
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
    rows = unit_vectors(20, 64, 0)
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
    rows = unit_vectors(40, 64, 0)
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
    places, ours = unit_vectors(20, 256, 0), PlaceMap(skip_recent=skip, sequence_length=length)
    for at, noise in enumerate(unit_vectors(40, 256, 1)):
        row = (places[at % 20] + 0.9 * noise) / np.linalg.norm(places[at % 20] + 0.9 * noise)
        ours.add(row)
        found = ours.locate(row)
        if at >= 20 + length:
            assert found[0].frame == at - 20


def test_threads_that_locate_while_another_adds(tmp_path, monkeypatch):
    """The map grows in place: whoever read it then read the memory of others, or none."""
    monkeypatch.setattr(place_map, "BLOCK", 64)
    rows, ours = unit_vectors(64, 1024, 0), PlaceMap()
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
    rows = unit_vectors(6, 16, 0)
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
