"""Pairs of photos for hloc and COLMAP."""

from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from exif import jpeg_taken
from folders import write_images

from mixvpr_jax import InputError
from mixvpr_jax.commands import pairs as command
from mixvpr_jax.evaluation.config import PairsConfig
from mixvpr_jax.evaluation.pairs import Photos, find_pairs


def read_as_hloc(path):
    """What hloc's parse_retrieval makes of a file of pairs."""
    found = {}
    for line in path.read_text().rstrip("\n").split("\n"):
        query, name = line.split(" ")
        found.setdefault(query, []).append(name)
    return found


def write_pairs(source, pairs, **options):
    command(str(source), str(pairs), PairsConfig(**options))


def on_a_circle(count):
    """Descriptors of a robot's loop: the nearest of each are those before and after it."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


@pytest.fixture
def loop(tmp_path):
    names = [f"cam/frame{i}.jpg" for i in range(12)]
    np.save(tmp_path / "d.npy", on_a_circle(12))
    (tmp_path / "d.txt").write_text("".join(f"{name}\n" for name in names))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name, row in zip(names, on_a_circle(12), strict=True):
            file.create_group(name)["global_descriptor"] = row
    return tmp_path


@pytest.mark.parametrize("name", ["d.npy", "d.h5"])
def test_a_sequence_searched_in_itself(loop, name, capsys):
    write_pairs(loop / name, loop / "pairs.txt", top=2)
    found = read_as_hloc(loop / "pairs.txt")
    assert len(found) == 12
    assert set(found["cam/frame0.jpg"]) == {"cam/frame1.jpg", "cam/frame11.jpg"}
    assert "24 pairs of 12 queries" in capsys.readouterr().out

    write_pairs(loop / name, loop / "far.txt", top=2, exclude_near="1")
    (loop / "d.txt").write_text((loop / "d.txt").read_text(), "utf-8-sig", newline="\r\n")
    write_pairs(loop / name, loop / "windows.txt", top=2)  # as its editors save the names
    assert (loop / "windows.txt").read_bytes() == (loop / "pairs.txt").read_bytes()

    far = read_as_hloc(loop / "far.txt")
    # Frame 11 looks like frame 0, but was seen last.
    assert far["cam/frame0.jpg"][0] == "cam/frame11.jpg"
    assert set(far["cam/frame5.jpg"]) == {"cam/frame3.jpg", "cam/frame7.jpg"}


def test_names_of_any_encoding(loop):
    """As old disks and archives hold them: Café.jpg in Latin-1."""
    names = [b"cam/Caf\xe9.jpg", "cam/Café.jpg".encode(), b"a.jpg"]
    with h5py.File(loop / "latin.h5", "w") as file:
        for name, row in zip(names, on_a_circle(3), strict=True):
            file.create_group(name)["global_descriptor"] = row
    write_pairs(loop / "latin.h5", loop / "pairs.txt")
    lines = (loop / "pairs.txt").read_bytes().splitlines()
    assert {line.split()[0] for line in lines} == {*names} and len(lines) == 6


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_seconds_by_names(unit):
    names = [f"{1_700_000_000 * unit + 2 * i * unit}.png" for i in range(12)]
    photos = Photos(names, on_a_circle(12), None)
    pairs = find_pairs(photos, photos, 11, "4s", None)
    near = {names[i] for i in range(3, 8)}
    assert {name for query, name in pairs if query == names[5]} == {*names} - near


@pytest.mark.parametrize("first", [0, 2019070500])
def test_ten_digits_that_are_no_unix_times(first):
    """KITTI's frames, and years with months, days and hours."""
    photos = Photos([f"{first + i:010d}.png" for i in range(12)], on_a_circle(12), None)
    with pytest.raises(InputError, match=rf"that are Unix times, .* found {first:010d}.png"):
        find_pairs(photos, photos, 11, "4s", None)


def test_fractions_of_seconds_by_names():
    """As TUM writes them; 0.4 s apart is within 0.4 s, whatever float64 makes of it."""
    names = [f"rgb/{1_305_031_102 + 0.1 * i:.6f}.png" for i in range(12)]
    photos = Photos(names, on_a_circle(12), None)
    pairs = find_pairs(photos, photos, 11, "0.4s", None)
    assert {name for query, name in pairs if query == names[5]} == {*names[:1], *names[10:]}


def test_nanoseconds_behind_seconds():
    """As ROS's are joined by a point, without zeros between: 0.0, 0.063, 0.113 and 0.163 s."""
    names = [f"1403636579.{ns}.png" for ns in (0, 63_555_550, 113_555_550, 163_555_550)]
    photos = Photos(names, on_a_circle(4), None)
    pairs = find_pairs(photos, photos, 3, "0.1s", None)
    assert {name for query, name in pairs if query == names[2]} == {names[0]}
    assert {name for query, name in pairs if query == names[0]} == {*names[2:]}


def test_seconds_by_exif(tmp_path):
    start = datetime(2026, 11, 27, 23, 59, 58)
    names = [f"{i}.jpg" for i in range(8)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg_taken(time=start + timedelta(seconds=i)))
    photos = Photos(names, on_a_circle(8), tmp_path)
    pairs = find_pairs(photos, photos, 8, "2s", None)
    assert [name for query, name in pairs if query == "0.jpg"] == [
        *("7.jpg", "6.jpg", "3.jpg", "5.jpg", "4.jpg")
    ]
    with pytest.raises(InputError, match=r"give --photos FOLDER"):
        find_pairs(Photos(names, on_a_circle(8), None), photos, 8, "2s", None)
    (tmp_path / "3.jpg").write_bytes(jpeg_taken())
    with pytest.raises(InputError, match=r"in 1 of 8, the first 3.jpg; give a number of frames"):
        find_pairs(photos, photos, 8, "2s", None)


def test_scores_are_cosines(loop, capsys):
    path = loop / "pairs.txt"
    write_pairs(loop / "d.npy", path, min_score=0.49)  # 60 degrees, at 30 degrees a frame
    assert {len(names) for names in read_as_hloc(path).values()} == {4}
    with pytest.raises(InputError, match=r"at least 1.5, found none"):
        write_pairs(loop / "d.npy", loop / "none.txt", min_score=1.5)
    assert not (loop / "none.txt").exists()


@pytest.mark.parametrize("factor", [1, 0.5, 30])
def test_descriptors_without_unit_norm_are_told(loop, caplog, factor):
    np.save(loop / "d.npy", factor * on_a_circle(12))
    write_pairs(loop / "d.npy", loop / "pairs.txt", top=2)
    assert ("are ranked by distance, as mixvpr eval" in caplog.text) is (factor != 1)


def test_no_descriptors_at_all(loop):
    np.save(loop / "d.npy", np.empty((0, 4), np.float32))
    (loop / "d.txt").write_text("")
    with pytest.raises(InputError, match=r"expected descriptors \[rows, d\], found \[0, 4\]"):
        write_pairs(loop / "d.npy", loop / "pairs.txt")


def test_pairs_of_an_evaluation(labelled, evaluate, tmp_path, capsys):
    database, queries = labelled
    result = evaluate(database, queries)
    write_pairs(tmp_path / "out", tmp_path / "pairs.txt", top=3)
    found = read_as_hloc(tmp_path / "pairs.txt")
    assert f"9 pairs of 3 queries, names below {database.parent}: " in capsys.readouterr().out
    for query, row in zip(result.data.queries, result.predictions, strict=True):
        names = [f"database/{result.data.database[index].name}" for index in row]
        assert found[f"queries/{query.name}"] == names
    with pytest.raises(InputError, match=r"expected photos of .*queries; give --photos FOLDER"):
        write_pairs(tmp_path / "out", tmp_path / "p.txt", photos=str(queries))


def test_pairs_of_an_evaluation_by_relative_and_absolute_names(
    labelled, evaluate, tmp_path, monkeypatch
):
    database, queries = labelled
    monkeypatch.chdir(tmp_path)
    evaluate(database.relative_to(tmp_path), queries)
    found = {}
    for photos in (None, str(database.parent), database.parent.name):
        write_pairs("out", f"{len(found)}.txt", top=3, photos=photos)
        found[photos] = Path(f"{len(found)}.txt").read_text()
    assert len(set(found.values())) == 1
    assert all(line.startswith("queries/@") for line in found[None].splitlines())


def test_a_photo_is_not_paired_with_itself_by_another_name(labelled, evaluate, tmp_path):
    database, _ = labelled
    (database.parent / "again").symlink_to(database)
    evaluate(database, database.parent / "again")
    write_pairs(tmp_path / "out", tmp_path / "pairs.txt", top=2)
    for query, names in read_as_hloc(tmp_path / "pairs.txt").items():
        assert len(names) == 2 and query.replace("again", "database") not in names
    write_pairs(tmp_path / "out", tmp_path / "far.txt", top=2, exclude_near="1")
    assert len(read_as_hloc(tmp_path / "far.txt")) == 2  # the one in the middle has none


def test_queries_in_a_file_of_their_own(loop):
    np.save(loop / "q.npy", on_a_circle(12)[3:4])
    (loop / "q.txt").write_text("query.jpg\n")
    write_pairs(loop / "d.h5", loop / "p.txt", top=1, queries=str(loop / "q.npy"))
    assert (loop / "p.txt").read_text() == "query.jpg cam/frame3.jpg\n"
    with pytest.raises(InputError, match=r"expected queries that are database photos, found none"):
        write_pairs(loop / "d.h5", loop / "r.txt", queries=str(loop / "q.npy"), exclude_near="1")


def test_two_photos_of_one_name(loop):
    """Of two drives, say: neither is the other, and the pairs would not tell which."""
    np.save(loop / "q.npy", on_a_circle(12)[::-1])
    (loop / "q.txt").write_text((loop / "d.txt").read_text())
    with pytest.raises(InputError, match=r"found two cam/frame0.jpg with different descriptors"):
        write_pairs(loop / "d.npy", loop / "p.txt", queries=str(loop / "q.npy"))
    rows = np.random.default_rng(0).standard_normal((12, 64)).astype("float32")
    for name, dtype in (("d", "float32"), ("q", "float16")):  # the same, described twice
        np.save(loop / f"{name}.npy", rows.astype(dtype))
    write_pairs(loop / "d.npy", loop / "p.txt", queries=str(loop / "q.npy"), top=2)
    write_pairs(loop / "d.npy", loop / "same.txt", top=2)
    assert (loop / "p.txt").read_text() == (loop / "same.txt").read_text()


@pytest.mark.parametrize("other", ["frame3.jpg", "drive/cam/frame3.jpg"])
@pytest.mark.parametrize("options", [{}, {"exclude_near": "1"}])
def test_a_photo_by_names_below_two_folders(other, options, loop):
    """It would be paired with itself, and no folder holds both names."""
    np.save(loop / "q.npy", on_a_circle(12)[3:5])
    (loop / "q.txt").write_text(f"{other}\n{other.replace('3', '4')}\n")
    with pytest.raises(InputError, match=f"same photos as {other} and cam/frame3.jpg; list"):
        write_pairs(loop / "d.npy", loop / "p.txt", queries=str(loop / "q.npy"), **options)
    np.save(loop / "q.npy", on_a_circle(12)[[3, 6]])  # a robot that starts at the same dock
    write_pairs(loop / "d.npy", loop / "p.txt", queries=str(loop / "q.npy"))


def test_files_that_hold_no_descriptors(loop):
    np.save(loop / "q.npy", np.eye(12, 3, dtype="float32"))
    (loop / "q.txt").write_text((loop / "d.txt").read_text())
    with pytest.raises(InputError, match=r"of one model, found descriptors of 3 and of 2 values"):
        write_pairs(loop / "d.npy", loop / "p.txt", queries=str(loop / "q.npy"))
    for array in (np.float32(3), np.zeros((12, 2)), np.zeros((12, 2), "int32")):
        np.save(loop / "d.npy", array)
        with pytest.raises(InputError, match=r"d.npy: expected descriptors \[n, d\] in float32"):
            write_pairs(loop / "d.npy", loop / "p.txt")
    with h5py.File(loop / "e.h5", "w") as file:
        file.create_group("a.jpg")["keypoints"] = np.zeros((2, 2))
    with pytest.raises(InputError, match=r"e.h5: expected groups with a global_desc.* found: none"):
        write_pairs(loop / "e.h5", loop / "p.txt")


def test_a_name_for_two_descriptors(loop):
    names = (loop / "d.txt").read_text().splitlines()
    (loop / "d.txt").write_text("\n".join([*names[:-1], names[0]]))
    line = r"d.npy: expected a name for each .* found 12 names and 12 descriptors \(11 distinct"
    with pytest.raises(InputError, match=line):
        write_pairs(loop / "d.npy", loop / "new.txt")


def test_wrong_input(loop, capsys):
    def refused(message, source="d.npy", **options):
        with pytest.raises(InputError, match=message):
            write_pairs(loop / source, loop / "new.txt", **options)
        assert not (loop / "new.txt").exists()

    refused("e.npy: expected an evaluation's output folder or descriptors", "e.npy")
    refused("top: expected a number above 0", top=0)
    refused(r"expected frames \(10\) or seconds \(30s\), found 3m", exclude_near="3m")
    (loop / "d.csv").write_text("")
    refused(r"d.csv: expected descriptors \(.npy, .h5\)", "d.csv")
    (loop / "broken.npy").write_bytes(b"\x93NUMPY")
    (loop / "broken.txt").write_text("a\n")
    refused("broken.npy: expected descriptors, found", "broken.npy")
    with (loop / "broken.npy").open("wb") as file:
        np.savez(file, on_a_circle(1))
    refused(r"broken.npy: expected descriptors, found: an archive", "broken.npy")
    (loop / "broken.h5").write_bytes(b"\x89HDF")
    refused("broken.h5: expected groups with a global_descriptor", "broken.h5")
    with h5py.File(loop / "local.h5", "w") as file:
        file.create_group("a.jpg")["keypoints"] = np.zeros((3, 2))
    refused("local.h5: expected groups with a global_descriptor", "local.h5")
    (loop / "d.txt").write_text("one name.jpg\n")
    refused("expected a name for each descriptor, found 1 names and 12", "d.npy")
    np.save(loop / "d.npy", on_a_circle(1))
    refused("expected names without spaces, .* found 'one name.jpg'", "d.npy")
    (loop / "d.txt").unlink()
    refused("d.txt: expected the names of the descriptors, found no such file", "d.npy")

    (loop / "new.txt").write_text("kept")
    with pytest.raises(
        InputError, match="expected no earlier output, found new.txt; .*--overwrite"
    ):
        write_pairs(loop / "d.h5", loop / "new.txt")
    assert (loop / "new.txt").read_text() == "kept"
    with pytest.raises(InputError, match="expected a file to write, found a folder"):
        write_pairs(loop / "d.h5", loop, overwrite=True)
    write_pairs(loop / "d.h5", loop / "new.txt", top=1, overwrite=True)
    assert len(read_as_hloc(loop / "new.txt")) == 12


@pytest.mark.parametrize(
    ("name", "options"),
    [("d.npy", {}), ("d.txt", {}), ("./../{}/d.npy", {}), ("q.txt", {"queries": "q.npy"})],
)
def test_what_is_read_is_not_replaced(name, options, loop):
    for ending in ("npy", "txt"):
        (loop / f"q.{ending}").write_bytes((loop / f"d.{ending}").read_bytes())
    before = {path.name: path.read_bytes() for path in loop.iterdir()}
    options = {option: str(loop / file) for option, file in options.items()}
    with pytest.raises(InputError, match="expected another file than those to read; choose"):
        write_pairs(loop / "d.npy", loop / name.format(loop.name), overwrite=True, **options)
    assert {path.name: path.read_bytes() for path in loop.iterdir()} == before


def test_a_folder_of_photos_that_is_searched_in_itself(tmp_path, evaluate, capsys):
    photos = write_images(tmp_path / "photos", [f"{i}.jpg" for i in range(5)])
    evaluate(photos, photos)
    write_pairs(tmp_path / "out", tmp_path / "pairs.txt")
    found = read_as_hloc(tmp_path / "pairs.txt")
    assert all(len(names) == 4 and query not in names for query, names in found.items())
