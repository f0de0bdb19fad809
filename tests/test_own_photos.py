"""A sequence that is searched for in itself: no photo finds itself, nor the frames beside it."""

import json
import shutil
from pathlib import Path, PurePath

import numpy as np
import pytest
from folders import write_images

from mixvpr_jax import InputError
from mixvpr_jax.datasets import read_folder_pair
from mixvpr_jax.datasets.names import frames_near
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.evaluate import read_data
from mixvpr_jax.evaluation.recall import leave_out_own_photos, without_left_out

SPACING_M = 10  # two frames on either side are positives


@pytest.fixture
def sequence(tmp_path):
    """Twelve frames on a road: names sort by their places."""
    names = [f"@{500000 + SPACING_M * i}.0@4100000.0@{i}@.jpg" for i in range(12)]
    return write_images(tmp_path / "road" / "day", names)


def links_to(sequence, folder, link):
    folder.mkdir()
    for path in sorted(sequence.iterdir())[:5]:
        link(folder / path.name, path)
    return folder


def listed(evaluation):
    found = zip(evaluation.data.queries, evaluation.predictions, strict=True)
    database = evaluation.data.database
    return {query.name: [database[index].name for index in row] for query, row in found}


def test_a_sequence_in_itself(evaluate, sequence, tmp_path):
    evaluation = evaluate(sequence, sequence)
    assert evaluation.predictions.shape == (12, 11)
    assert all(query not in found for query, found in listed(evaluation).items())
    assert evaluation.data.positives[3].tolist() == [1, 2, 4, 5]
    assert sorted(evaluation.recall) == [1, 5, 10]  # of 11 that each can find
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_queries_in_database"] == 12 and results["exclude_neighbours"] == 0
    told = "\n".join(evaluation.data.describe())
    assert "12 of 12 queries are files of the database: each is left out" in told
    report = (tmp_path / "out" / "report.html").read_text()
    assert "12 queries are files of the database: each is no neighbour of its own" in report


def test_neighbours_and_ranks_are_those_of_the_others(evaluate, sequence, tmp_path):
    """As if every query were searched for among the other photos alone."""
    evaluation = evaluate(sequence, sequence, exclude_neighbours=1)
    descriptors = np.asarray(evaluation.database_descriptors, np.float64)
    for row in range(12):
        squared = ((descriptors - descriptors[row]) ** 2).sum(1)
        order = [i for i in np.argsort(squared, kind="stable") if abs(i - row) > 1]
        assert evaluation.predictions[row].tolist() == order[:9]
        right = [rank for rank, i in enumerate(order, 1) if abs(i - row) == 2]
        assert evaluation.best_positives.ranks[row] == right[0]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["exclude_neighbours"] == 1
    assert "each and 1 frames before and after it" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_links_are_the_same_photo(evaluate, sequence, tmp_path, link):
    queries = links_to(sequence, tmp_path / "some", link)
    evaluation = evaluate(sequence, queries)
    assert evaluation.data.num_own_queries == 5
    assert all(query not in found for query, found in listed(evaluation).items())


def test_copies_are_other_photos_and_are_told(evaluate, sequence, tmp_path, caplog):
    evaluation = evaluate(sequence, shutil.copytree(sequence, tmp_path / "again"))
    assert evaluation.data.num_own_queries == 0
    assert evaluation.predictions[:, 0].tolist() == list(range(12))
    assert "12 of 12 queries have a database photo at distance 0" in caplog.text
    caplog.clear()
    evaluate(sequence, sequence, overwrite=True)  # each is left out of its own neighbours
    assert "at distance 0" not in caplog.text


def test_a_folder_of_the_database(evaluate, sequence):
    night = write_images(sequence.parent / "night", ["@500001.0@4100000.0@x@.jpg"], seed=1)
    evaluation = evaluate(sequence.parent, sequence)
    assert evaluation.data.num_own_queries == 12
    assert all(query not in found for query, found in listed(evaluation).items())
    only = evaluate(sequence, night, overwrite=True)
    assert only.data.num_own_queries == 0 and only.predictions.shape == (1, 12)


def test_queries_some_of_which_are_new(evaluate, sequence, tmp_path):
    queries = links_to(sequence, tmp_path / "some", Path.hardlink_to)
    write_images(queries, ["@500031.0@4100000.0@new@.jpg"], seed=1)
    evaluation = evaluate(sequence, queries)
    pairs = zip(evaluation.data.queries, evaluation.data.left_out, strict=True)
    left_out = {query.name: len(found) for query, found in pairs}
    assert left_out.pop("@500031.0@4100000.0@new@.jpg") == 0
    assert set(left_out.values()) == {1}
    assert evaluation.predictions.shape == (6, 11)
    assert "5 of 6 queries are files" in "\n".join(evaluation.data.describe())


def test_an_image_that_cannot_be_read_moves_the_others(evaluate, sequence, caplog):
    min(sequence.iterdir()).write_bytes(b"")
    evaluation = evaluate(sequence, sequence, skip_unreadable=True)
    assert len(evaluation.data.queries) == 11
    assert all(query not in found for query, found in listed(evaluation).items())
    assert evaluation.data.positives[0].tolist() == [1, 2]
    assert sorted(evaluation.recall) == [1, 5, 10]
    max(sequence.iterdir()).write_bytes(b"")
    options = {"skip_unreadable": True, "overwrite": True}
    evaluation = evaluate(sequence, sequence, **options)
    assert evaluation.predictions.shape == (10, 9)
    assert sorted(evaluation.recall) == [1, 5]  # of 9 that each can still find
    assert "no recall@" not in caplog.text, "nobody asked for one"
    assert evaluate(sequence, sequence, recall_values=(11,), **options).recall == {}
    assert "no recall@11, as some query can find 9 readable database images at" in caplog.text


def test_frames_are_counted_in_the_order_of_their_names_in_their_folder(tmp_path):
    names = [f"frame{i}.jpg" for i in range(12)]
    for camera in ("left", "right"):
        write_images(tmp_path / camera, names)
    data = leave_out_own_photos(read_folder_pair(tmp_path, tmp_path / "left"), frames=2)
    places = {query.name: found for query, found in zip(data.queries, data.left_out, strict=True)}
    for i, name in enumerate(names):
        found = [data.database[index] for index in places[name]]
        assert {path.parent.name for path in found} == {"left"}
        near = range(max(i - 2, 0), min(i + 3, 12))
        assert sorted(path.name for path in found) == sorted(f"frame{j}.jpg" for j in near)


@pytest.mark.parametrize(
    "name",
    [
        "@{east}@4100000.0@{frame}@.jpg",
        "@{east}@4100000.0@32@S@{frame}@.jpg",
        "@{east}@4100000.0@32S@{frame}.jpg",
        "@{east}@4100000.0@10@S@037.{east:.0f}@-0122.00001@{frame}.jpg",
        "@{east}@4100000.0@10S@37.{east:.0f}@9.00001@{time}@.jpg",
        "@{east}@4100000.0@{time}@.jpg",
        "@{east}@4100000.0@10@S@@@{frame:04d}@@@@@@@@.jpg",
        "@{east}@4100000.0@10@S@@@@{frame}@90@@@@@@.jpg",
        "@{east}@4100000.0@10@S@@@id@@@@@@{time}@@.jpg",
    ],
)
def test_positions_do_not_order_frames(name, tmp_path):
    """On a road due north they differ by the noise of GPS alone."""
    easts = np.random.default_rng(0).permutation(12) + 500000.5
    times = [1305031102 + frame / 10 for frame in range(12)]
    names = [
        name.format(east=east, frame=frame, time=times[frame]) for frame, east in enumerate(easts)
    ]
    write_images(tmp_path / "road", names)
    data = leave_out_own_photos(read_folder_pair(tmp_path / "road", tmp_path / "road"), frames=2)
    near = {
        query.name: sorted(names.index(data.database[index].name) for index in some)
        for query, some in zip(data.queries, data.left_out, strict=True)
    }
    assert near == {
        name: list(range(max(at - 2, 0), min(at + 3, 12))) for at, name in enumerate(names)
    }


@pytest.mark.parametrize(
    "rest", ["@.jpg", "@32@S@.jpg", "@32@S@37.1234@-122.1234@.jpg", "@10@S@@@@@90@@@@@@.jpg"]
)
def test_positions_alone_tell_no_neighbours(rest, tmp_path):
    write_images(tmp_path / "road", [f"@50000{i}.0@4100000.0{rest}" for i in range(3)])
    data = read_folder_pair(tmp_path / "road", tmp_path / "road")
    with pytest.raises(InputError, match=r"expected a frame's number or time after the posi"):
        leave_out_own_photos(data, frames=1)


@pytest.mark.parametrize(
    "stems",
    [
        ["9.95", "10.0", "10.05", "10.1"],  # seconds of a simulation
        ["1.8", "1.9", "1.10", "1.11"],  # a sequence and its frames
        ["1305031102.2", "1305031102.25", "1305031102.3"],  # as Python writes 2.30
        ["frame_1305031102.2", "frame_1305031102.25", "frame_1305031102.3"],
        ["left 9.5 s", "left 10.25 s", "left 10.3 s"],
        ["0.1", "0.2", "0.30000000000000004", "0.4"],  # np.arange's
        ["12", "12.25", "12.5", "13"],  # as JavaScript writes them
        ["7_12", "7_12.25", "7_12.5"],
        ["1403636579.63555555", "1403636579.113555555"],  # ROS's seconds and nanoseconds
        ["cam0_1403636579.63555555", "cam0_1403636579.113555555", "cam0_1403636580.0"],
        ["5.63000000", "5.196000000"],  # the same of a simulation
        ["2026.9.28", "2026.10.3", "2026.10.12"],
    ],
)
def test_fractions_of_seconds_and_numbers_after_a_point(stems):
    near = frames_near([PurePath(f"{stem}.png") for stem in reversed(stems)], 1)
    found = [{stems[~index] for index in some} for some in reversed(near)]
    assert found == [{*stems[max(at - 1, 0) : at + 2]} for at in range(len(stems))]


def test_queries_without_positives_count_as_missed(evaluate, sequence):
    evaluation = evaluate(sequence, sequence, positive_radius_m=5)
    assert set(evaluation.recall.values()) == {0}
    evaluation = evaluate(sequence, sequence, exclude_neighbours=2, overwrite=True)
    assert set(evaluation.recall.values()) == {0}
    assert evaluation.best_positives.indices.tolist() == [-1] * 12


def test_recall_at_more_than_can_be_found(evaluate, sequence):
    with pytest.raises(InputError, match=r"at most 11, .* that are not left out, found 12"):
        evaluate(sequence, sequence, recall_values=(12,))


def test_frames_that_leave_nothing(evaluate, sequence, tmp_path):
    with pytest.raises(InputError, match=r"expected photos besides the query .*, found 12 in all"):
        evaluate(sequence, sequence, exclude_neighbours=11)
    assert not (tmp_path / "out").exists()


def test_one_photo_alone_finds_itself(evaluate, tmp_path, caplog):
    folder = write_images(tmp_path / "one", ["a.jpg"])
    assert evaluate(folder, folder).predictions.tolist() == [[0]]
    assert "the database holds one photo, a query" in caplog.text


def test_faiss_leaves_them_out(evaluate, sequence):
    pytest.importorskip("faiss")
    exact = evaluate(sequence, sequence)
    other = evaluate(sequence, sequence, index="faiss", overwrite=True)
    assert np.array_equal(exact.predictions, other.predictions)


def test_frames_without_queries_of_the_database(sequence, tmp_path):
    write_images(tmp_path / "others", ["@5@5@@.jpg"])
    config = EvaluationConfig(
        "w", tmp_path / "o", database=sequence, queries=tmp_path / "others", exclude_neighbours=1
    )
    with pytest.raises(InputError, match="exclude_neighbours: expected queries that are files"):
        read_data(config)


def test_what_is_left_of_each_row():
    indices = np.array([[4, 2, 0, -1], [1, 0, 3, 2], [5, 6, 7, 8]])
    distances = np.arange(12.0).reshape(3, 4)
    left_out = [np.array([2]), np.array([], int), np.array([5, 8])]
    found, apart = without_left_out((indices, distances), left_out, 3)
    assert found.tolist() == [[4, 0], [1, 0], [6, 7]]
    assert apart.tolist() == [[0, 2], [4, 5], [9, 10]]
    assert without_left_out((indices, distances), (), 9)[0].tolist() == indices[:, :3].tolist()
    assert without_left_out((indices[1:], distances[1:]), (), 2)[0].tolist() == [[1, 0], [5, 6]]
