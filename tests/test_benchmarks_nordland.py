"""Nordland, of which there are three."""

import pytest
from benchmark_trees import (
    listed,
    nordland_downloader_tree,
    nordland_tree,
    refused_subset,
    set_counts,
    small,
    write_images,
)

from mixvpr_jax.datasets import read_benchmark


def test_nordland_by_the_authors_lists(tmp_path, monkeypatch):
    set_counts(monkeypatch, "nordland", 30, 3)
    root = nordland_tree(tmp_path / "Nordland", 30, truth=tmp_path / "truth" / "Nordland")
    found = read_benchmark("nordland", tmp_path, ground_truth=tmp_path / "truth")
    assert listed(found.positives) == [[0, 1], [9, 10, 11], [19, 20, 21]]  # clipped at the start
    assert found.queries[1] == root / "query" / "1.png"
    assert found.conditions == {"section": ["0-10 %", "30-40 %", "60-70 %"]}
    assert found.database_utm is None and not found.is_subset


@pytest.mark.parametrize("field", [True, False])
def test_nordland_full_by_the_downloaders_frames(tmp_path, monkeypatch, field):
    set_counts(monkeypatch, "nordland-full", 40, 40)
    root = nordland_downloader_tree(tmp_path / "nordland", 40)
    if not field:  # then by the made-up positions
        for path in root.rglob("*.jpg"):
            path.rename(path.with_name("@".join(path.name.split("@")[:3]) + "@.jpg"))
    found = read_benchmark("nordland-full", tmp_path)
    assert listed(found.positives) == [
        [frame for frame in range(40) if abs(frame - query) <= 10] for query in range(40)
    ]
    assert found.conditions["section"][::8] == [
        "0-10 %",
        "20-30 %",
        "40-50 %",
        "60-70 %",
        "80-90 %",
    ]


def test_nordland_full_in_folders_of_the_seasons(tmp_path):
    """Numbers in these names have gaps: a frame is its place in the list."""
    names = [f"images-{7 * frame + 2:05d}.png" for frame in range(25)]
    for season in ("summer", "winter"):
        write_images(tmp_path / season, [*names, "images-00001.png"])
    (tmp_path / "cleanImageNames.txt").write_text("\n".join(names) + "\n")
    found = small("nordland-full", tmp_path)
    assert found.database[0] == tmp_path / "summer" / names[0]
    assert found.queries[0] == tmp_path / "winter" / names[0]
    assert listed(found.positives)[:2] == [list(range(11)), list(range(12))]
    (tmp_path / "winter" / names[1]).unlink()
    fewer = small("nordland-full", tmp_path)
    assert len(fewer.queries) == 24 and listed(fewer.positives)[1] == list(range(13))


@pytest.mark.parametrize("listed_names", [True, False])
def test_frames_of_seasons_count_by_value(tmp_path, listed_names):
    """Frames that ffmpeg numbered: 10.png comes after 9.png. Notepad begins a list with a mark."""
    names = [f"{frame}.png" for frame in range(25)]
    for season in ("summer", "winter"):
        write_images(tmp_path / season, names)
    if listed_names:
        (tmp_path / "cleanImageNames.txt").write_text("\n".join(names), encoding="utf-8-sig")
    found = small("nordland-full", tmp_path)
    for query, positives in zip(found.queries, found.positives, strict=True):
        near = sorted(int(found.database[index].stem) for index in positives)
        assert near == [frame for frame in range(25) if abs(frame - int(query.stem)) <= 10]


@pytest.mark.parametrize("labelled", [True, False])
def test_nordland_of_selavpr(tmp_path, monkeypatch, labelled):
    set_counts(monkeypatch, "nordland-selavpr", 12, 12)
    if labelled:
        nordland_downloader_tree(tmp_path, 12, metres=10.0)
    else:  # numbers in names count as numbers: 10 comes after 9
        for folder, season in (("database", "summer"), ("queries", "winter")):
            write_images(tmp_path / folder, [f"{season}_{frame}.png" for frame in range(12)])

    def frame(path):
        return int(path.name.split("@")[7] if labelled else path.stem.split("_")[1])

    found = read_benchmark("nordland-selavpr", tmp_path)
    for query, positives in zip(found.queries, found.positives, strict=True):
        near = sorted(frame(found.database[index]) for index in positives)
        assert near == [other for other in range(12) if abs(other - frame(query)) <= 2]


def test_a_part_of_selavprs_nordland_keeps_its_frames(tmp_path):
    for folder in ("database", "queries"):
        write_images(tmp_path / folder, [f"{frame:02d}.png" for frame in range(12)])
    for frame in range(3):
        (tmp_path / "queries" / f"{frame:02d}.png").unlink()
    assert listed(small("nordland-selavpr", tmp_path).positives)[0] == [1, 2, 3, 4, 5]


def test_images_that_either_folder_lacks_move_no_frame(tmp_path):
    for season, lacks in (("database", 2), ("queries", 9)):
        names = [f"{frame:02d}.png" for frame in range(12) if frame != lacks]
        write_images(tmp_path / season, names)
    message = "expected a frame of each name in both, found 11 and 11 with different names"
    refused_subset(message, "nordland-selavpr", tmp_path)

    for season, frames in (("summer", range(5, 30)), ("winter", range(30))):
        write_images(tmp_path / "b" / season, [f"{frame:02d}.png" for frame in frames])
    found = small("nordland-full", tmp_path / "b")
    near = [int(found.database[index].stem) for index in found.positives[4]]
    assert near == list(range(5, 15))


def test_a_part_of_the_frames_by_other_names_is_refused(tmp_path):
    """Of as many images in each folder: the hundredth there may be the first here."""
    for shift in (0, 12):
        for folder, first in (("database", 0), ("queries", shift)):
            names = [f"{folder}_{frame:02d}.png" for frame in range(first, first + 12)]
            write_images(tmp_path / str(shift) / folder, names)
        message = "expected a frame of each name in both, found 12 and 12 with different names"
        refused_subset(message, "nordland-selavpr", tmp_path / str(shift))


@pytest.mark.parametrize("form", ["{season}_{frame:02d}.png", "{season} a/{frame}.png"])
def test_seasons_whose_names_differ_are_refused(tmp_path, form):
    """Their frames would follow one another, not match."""
    for season in ("summer", "winter"):
        names = [form.format(season=season, frame=frame) for frame in range(30)]
        write_images(tmp_path / season, names)
    message = "expected the same name for a frame in both, found summer.*0.png and winter.*0.png"
    refused_subset(message, "nordland-full", tmp_path)


def test_seasons_in_two_formats_are_of_the_same_frames(tmp_path):
    for season, suffix in (("summer", "png"), ("winter", "jpg")):
        write_images(tmp_path / season, [f"{frame}.{suffix}" for frame in range(30)])
    found = small("nordland-full", tmp_path)
    assert (len(found.database), len(found.queries)) == (30, 30)
    assert listed(found.positives)[12] == list(range(2, 23))


def test_nordlands_are_not_taken_for_one_another(tmp_path):
    nordland_downloader_tree(tmp_path, 20, step=10)
    message = "Nordland_gt.npy.*Every frame against every frame is nordland-full.*nordland_subset"
    refused_subset(message, "nordland", tmp_path)
    nordland_tree(tmp_path / "Nordland")
    refused_subset(
        "nordland-full: expected .*found neither", "nordland-full", tmp_path / "Nordland"
    )


def test_frames_that_have_no_number(tmp_path):
    for folder in ("database", "queries"):
        write_images(tmp_path / "images" / "test" / folder, ["a.jpg", "b.jpg"])
    message = "expected names @0@north@@@@@frame@.*, found b.jpg"
    refused_subset(message, "nordland-full", tmp_path)
    write_images(tmp_path / "images" / "test" / "queries", ["c.jpg", "d.jpg"])
    (tmp_path / "images" / "test" / "queries" / "a.jpg").unlink()
    message = "expected a frame of each name in both, found 2 and 3 with different names"
    refused_subset(message, "nordland-selavpr", tmp_path)


@pytest.mark.parametrize(
    "name", ["@{0}@0@fall@{0}@images-{0:05d}@.png", "@5{0:05d}.1@73{0:05d}.2@33@W@.jpg"]
)
def test_a_track_along_other_axes_gives_no_frames(tmp_path, name):
    """Names of VG-transformers' kind, which count frames eastwards, and positions on Earth."""
    for folder in ("database", "queries"):
        write_images(tmp_path / "test" / folder, [name.format(frame) for frame in range(12)])
    message = "database: expected names @0@north@@@@@frame@.*, found @"
    refused_subset(message, "nordland-full", tmp_path)
