"""`mixvpr describe`: photos in, descriptors and their names out, or one line."""

import os
import shutil
import sys

import h5py
import numpy as np
import pytest
from folders import write_images
from runs import small_disk

from mixvpr_jax import InputError, from_pretrained
from mixvpr_jax.cli import parse
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describer import Describer
from mixvpr_jax.evaluation.photos import describe_photos, write_hloc
from mixvpr_jax.storage import NoRoom, as_path, atomic_write
from mixvpr_jax.writable import require_free

NAMES = ["a.jpg", "b/@1@2@.png", "b/c/ä d.jpg"]  # one of them with a position: no matter


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(NAMES):
        write_images((tmp_path / "photos" / name).parent, [name.rpartition("/")[2]], seed=index)
    (tmp_path / "photos" / "notes.md").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture
def describe(weights, tmp_path):
    def run(photos, output, **options):
        config = DescribeConfig(**{"weights": str(weights), "batch_size": 2} | options)
        return describe_photos(photos, tmp_path / output, config)

    return run


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory):
    """What the public API gives of each photo."""
    model, preprocess = from_pretrained(weights)
    drawn = tmp_path_factory.mktemp("drawn")
    for index, name in enumerate(NAMES):
        write_images((drawn / name).parent, [name.rpartition("/")[2]], seed=index)
    return np.asarray(model(preprocess([drawn / name for name in NAMES])))


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "photos")


def test_an_array_and_its_names(describe, folder, expected, tmp_path, weights, capsys):
    output = tmp_path / "new" / "d.npy"
    options = ["--weights", str(weights), "--batch-size", "2", "-o", str(output)]
    parse("describe", [str(folder), *options], "mixvpr describe")
    assert capsys.readouterr().out == f"3 descriptors of 128 values, float32: {output}\n"
    found = np.load(output)
    assert found.dtype == np.float32 and np.abs(found - expected).max() <= 1e-6
    assert (tmp_path / "new" / "d.txt").read_text().splitlines() == NAMES
    assert left(tmp_path / "new") == ["d.npy", "d.txt"]


def test_a_file_as_hloc_reads_it(describe, folder, expected, tmp_path):
    """`get_descriptors` of hloc's pairs_from_retrieval.py, and `list_h5_names` of its utils."""
    described = describe(folder, "d.h5")
    names = []
    with h5py.File(tmp_path / "d.h5", "r", libver="latest") as file:

        def visit(_, item):
            if isinstance(item, h5py.Dataset):
                names.append(item.parent.name.strip("/"))

        file.visititems(visit)
        read = np.stack([file[name]["global_descriptor"].__array__() for name in NAMES])
    assert sorted(set(names)) == NAMES
    assert np.array_equal(read, described.descriptors)
    assert np.abs(read - expected).max() <= 1e-6
    assert left(tmp_path) == ["d.h5"]


def test_a_photo_and_a_list(describe, folder, expected, tmp_path, caplog):
    describe(folder / NAMES[1], "one.npy")
    assert np.abs(np.load(tmp_path / "one.npy") - expected[1:2]).max() <= 1e-6
    assert (tmp_path / "one.txt").read_text() == "@1@2@.png\n"
    (folder / "some.txt").write_text(f"{NAMES[2]}\n\n{NAMES[0]}\n{NAMES[2]}\n")
    describe(folder / "some.txt", "some.npy")
    assert np.abs(np.load(tmp_path / "some.npy") - expected[[2, 0]]).max() <= 1e-6
    assert (tmp_path / "some.txt").read_text().splitlines() == [NAMES[2], NAMES[0]]
    assert "some.txt: 2 images are listed by 3 names; each counts once" in caplog.text


@pytest.mark.parametrize("size", ["8k", "20k", "40k"])
def test_a_disk_that_is_full_for_hloc(size):
    """HDF5 would crash the process, and leave what it wrote."""
    with small_disk(size) as disk:
        line = "room on the disk, found: No space left on device"
        with pytest.raises(NoRoom, match=line), atomic_write(disk / "d.h5") as file:
            write_hloc(file, list(map(str, range(40))), np.zeros((40, 128), np.float32))
        assert left(disk) == []


@pytest.mark.parametrize("output", ["d.npy", "d.h5"])
def test_a_photo_that_is_listed_twice_is_described_once(describe, folder, tmp_path, output):
    names = [NAMES[2], NAMES[0], NAMES[2], "a.png"]  # an image in another format counts
    (tmp_path / "photos_images_paths.txt").write_text("\n".join(names))
    describe(folder, output)
    if output == "d.npy":
        assert (tmp_path / "d.txt").read_text().splitlines() == [NAMES[2], NAMES[0]]
    else:
        with h5py.File(tmp_path / output) as groups:
            assert all(f"{name}/global_descriptor" in groups for name in names[:3])
            assert len(groups) == 2


def test_the_working_folder_and_a_list_beside_it(describe, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (tmp_path / "photos_images_paths.txt").write_text(f"photos/{NAMES[2]}\n{NAMES[0]}\n")
    with pytest.raises(InputError, match="found 1 missing"):
        describe(as_path("."), "d.npy")
    (tmp_path / "photos_images_paths.txt").write_text(f"{NAMES[2]}\n{NAMES[0]}\n")
    describe(as_path("."), "d.npy")
    assert (tmp_path / "d.txt").read_text().splitlines() == [NAMES[2], NAMES[0]]


def test_half_precision_and_names_of_bytes(describe, folder, tmp_path):
    name = os.fsdecode(b"\xe9.jpg")
    shutil.copy(folder / "a.jpg", folder / name)
    assert describe(folder, "d.npy", storage="float16").descriptors.dtype == np.float16
    assert np.load(tmp_path / "d.npy").dtype == np.float16
    assert os.fsencode(name) in (tmp_path / "d.txt").read_bytes().splitlines()
    describe(folder, "d.h5")
    with h5py.File(tmp_path / "d.h5") as file:
        assert file[b"\xe9.jpg"]["global_descriptor"].shape == (128,)


def test_what_cannot_be_read(describe, folder, expected, tmp_path):
    (folder / "b.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b.jpg: expected an image"):
        describe(folder, "d.npy")
    assert left(tmp_path) == []
    found = describe(folder, "d.npy", skip_unreadable=True)
    assert len(found.reasons) == 1
    assert np.abs(np.load(tmp_path / "d.npy") - expected).max() <= 1e-6
    assert (tmp_path / "d.txt").read_text().splitlines() == NAMES


@pytest.mark.parametrize("target", ["absent.jpg", "b.jpg"])
@pytest.mark.parametrize("cache_gigabytes", [0, 1])
def test_links_to_nothing(describe, folder, tmp_path, monkeypatch, target, cache_gigabytes):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "photos" / "home"))
    (folder / "b.jpg").symlink_to(target)
    options = {"cache_gigabytes": cache_gigabytes}
    with pytest.raises(InputError, match=r"b.jpg: expected an image"):
        describe(folder, "d.npy", **options)
    assert left(tmp_path) == []
    assert len(describe(folder, "d.npy", skip_unreadable=True, **options).reasons) == 1
    assert (tmp_path / "d.txt").read_text().splitlines() == NAMES


def test_the_cache_is_that_of_evaluations(describe, evaluate, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
    evaluate(folder / "b" / "c", folder / "b" / "c", output=tmp_path / "out")

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("mixvpr_jax.evaluation.describer.compile_encoder", lambda *_: refuse)
    describe(folder / "b" / "c", "d.npy")
    with pytest.raises(AssertionError, match="computed again"):
        describe(folder / "b" / "c", "e.npy", cache_gigabytes=0)


def test_earlier_descriptors_stay(describe, folder, expected, tmp_path):
    for name in ("d.txt", "d.npy"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(
            InputError,
            match=rf"expected no earlier output, found .*{name}.* another name or give --ov",
        ):
            describe(folder, "d.npy")
        assert (tmp_path / name).read_text() == "mine"
    describe(folder, "d.npy", overwrite=True)
    assert np.abs(np.load(tmp_path / "d.npy") - expected).max() <= 1e-6
    assert (tmp_path / "d.txt").read_text().splitlines() == NAMES


@pytest.mark.parametrize(
    ("photos", "output", "message"),
    [
        ("photos", "d.csv", "output: expected FILE.npy or FILE.h5, found .*d.csv"),
        ("photo", "d.npy", "photo: expected a folder of photos, .*such file; closest: .*photos"),
        ("photos/empty", "d.npy", "empty: expected images .*, found none"),
        ("photos/notes.md", "d.npy", "notes.md: expected an image"),
        ("photos/empty.txt", "d.npy", "empty.txt: expected the images of"),
        ("photos/list.CSV", "d.npy", "list.CSV: expected a .txt list, one name per line"),
        ("photos/other.txt", "d.npy", "expected 1 images in .*photos, found 1 missing"),
        ("photos/above.txt", "d.npy", "expected names of images inside the data folder"),
        (
            "photos/other.txt",
            "photos/other.npy",
            "other.txt: expected another file than those to read",
        ),
        ("photos", "photos/b.npy", "expected a file to write, found a folder"),
    ],
)
def test_refused(describe, folder, tmp_path, photos, output, message):
    (folder / "empty").mkdir()
    (folder / "b.npy").mkdir()
    (folder / "empty.txt").write_text("\n")
    (folder / "list.CSV").write_text("name\na.jpg\n")
    (folder / "other.txt").write_text("other.jpg")
    (folder / "above.txt").write_text("../a.jpg")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=message):
        describe(tmp_path / photos, output)
    assert sorted(folder.rglob("*")) == before
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "photos", "found"),
    [
        ("describe", ["a.jpg", "b.jpg"], "2 names"),
        ("describe", ["a.jpg", "b.jpg", "c.jpg"], "3 names"),
        ("pca", ["a.jpg", "b.jpg"], "2 names"),
        ("describe", [], "0 names"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_pattern_that_a_shell_replaces(command, photos, found, first, tmp_path):
    options = [
        "--weights",
        "none",
        "-o",
        str(tmp_path / "d.npy"),
        *["--size", "4"] * (command == "pca"),
    ]
    with pytest.raises(InputError, match=f"one folder, or one list, found {found}.*> photos.txt"):
        parse(command, [*photos, *options] if first else [*options, *photos], f"mixvpr {command}")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("places", ["--output", "o"]),
        ("eval", ["--weights", "w", "--output", "o", "--queries", "q", "--database"]),
        ("eval", ["--weights", "w", "--output", "o", "--database", "d", "--queries"]),
    ],
)
@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_pattern_in_place_of_a_folder(command, options, number):
    what = options[-1] if command == "eval" else "PHOTOS"
    line = f"{what}: expected one folder, found {number} names; give the folder of these photos"
    photos = [f"{i}.jpg" for i in range(number)]
    with pytest.raises(InputError, match=line):
        parse(command, [*options, *photos], f"mixvpr {command}")


@pytest.mark.parametrize("to_name", [os.path.abspath, os.path.relpath])
def test_the_users_list_stays_however_it_is_written(tmp_path, monkeypatch, to_name):
    (tmp_path / "x.txt").write_text("a.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.txt").symlink_to("x.txt")
    for photos in (as_path("x.txt"), as_path("link.txt")):
        files = [as_path(to_name(tmp_path / "x.npy")), as_path(to_name(tmp_path / "x.txt"))]
        with pytest.raises(InputError, match="x.txt: expected another file than those to read"):
            require_free(files, "the descriptors", sources=[photos], overwrite=True)


def test_a_name_of_two_lines(describe, folder, tmp_path):
    shutil.copy(folder / "a.jpg", folder / "a\nb.jpg")
    with pytest.raises(InputError, match="expected names of one line, found 'a.nb.jpg'"):
        describe(folder, "d.npy")


@pytest.mark.parametrize(("ending", "others"), [("npy", ["whole.txt"]), ("h5", [])])
def test_descriptors_that_a_disk_cuts(describe, folder, tmp_path, ending, others):
    """NumPy's own writing told nothing where the last bytes were missing; HDF5 crashed."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    found = describe(folder, f"whole.{ending}", cache_gigabytes=0).descriptors
    size = (tmp_path / f"whole.{ending}").stat().st_size - found[0].nbytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(NoRoom, match=r"/cut\.\w+: .*found: .*File too large"):
            describe(folder, f"cut.{ending}", cache_gigabytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(tmp_path) == [f"whole.{ending}", *others]


@pytest.mark.parametrize("output", ["d.npy", "d.h5"])
def test_another_process_was_faster(describe, folder, tmp_path, monkeypatch, output):
    """What it wrote is earlier output, too, though none was there at the start."""
    whole = Describer.describe

    def meanwhile(self, photos):
        (tmp_path / output).write_text("theirs")
        return whole(self, photos)

    monkeypatch.setattr(Describer, "describe", meanwhile)
    with pytest.raises(InputError, match="expected no earlier output, found "):
        describe(folder, output)
    assert (tmp_path / output).read_text() == "theirs"
    assert left(tmp_path) == [output]
    describe(folder, output, overwrite=True)
    assert (tmp_path / output).read_bytes() != b"theirs"


def test_hloc_files_need_h5py(describe, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install 'mixvpr-jax\[hloc\]'"):
        describe(folder, "d.h5")
    assert left(tmp_path) == []
