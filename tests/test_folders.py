"""What a folder of images holds: endings, a list beside it, photos that cannot be read, labels."""

import re
from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import listed, write_image, write_images
from PIL import Image

from mixvpr_jax.datasets import BENCHMARKS, folders, read_folder_pair
from mixvpr_jax.datasets.folders import read_folder
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import IMAGE_SUFFIXES, locate
from mixvpr_jax.preprocess import FORMATS, load_image


def names_of(folder):
    return [path.relative_to(folder.root).as_posix() for path in folder.paths]


def test_every_ending_of_what_is_read_is_listed(tmp_path):
    """What Pillow saves under an ending is an image to us, if we read its format."""
    Image.init()
    known = {ending for ending, name in Image.EXTENSION.items() if name in FORMATS}
    assert known - {".pfm"} <= IMAGE_SUFFIXES  # of floats, whose range nobody knows
    of_others = {".JIF": "JPEG", ".JPS": "JPEG", ".INSP": "JPEG", ".DIB": "BMP"}
    for ending in sorted(IMAGE_SUFFIXES - {ending.lower() for ending in of_others}):
        grey = ending in (".pgm", ".pbm")
        Image.new("1" if ending == ".pbm" else "L" if grey else "RGB", (9, 7)).save(
            tmp_path / f"a{ending}"
        )
        load_image(tmp_path / f"a{ending}")
    for ending, kind in of_others.items():
        Image.new("RGB", (9, 7)).save(tmp_path / f"B{ending}", kind)
    found = read_folder(tmp_path)
    assert len(found.paths) == len(IMAGE_SUFFIXES)
    assert all(load_image(path).size == (9, 7) for path in found.paths)


UNREAD = [
    "heic",
    "ico",
    "JPH",
    "HEIF",
    "hif",
    "avif",
    "jp2",
    "jxl",
    "cr2",
    "CR3",
    "nef",
    "arw",
    "DNG",
    "rw2",
    "tga",
    "EXR",
    "fff",
    "psd",
]


@pytest.mark.parametrize("ending", UNREAD)
def test_photos_that_cannot_be_read_are_told(tmp_path, caplog, ending):
    write_images(tmp_path / "q", ["a.jpg", "sub/b.PNG"])
    for name in (f"c.{ending}", f"sub/d.{ending}", "notes.txt", f".hidden.{ending}"):
        (tmp_path / "q" / name).write_bytes(b"\0")
    assert names_of(read_folder(tmp_path / "q")) == ["a.jpg", "sub/b.PNG"]
    (line,) = caplog.messages
    assert line.startswith(f"note: {tmp_path}/q: 2 photos are left out")
    assert f"(2 .{ending.lower()})" in line


def test_folders_of_programs_are_not_searched(tmp_path):
    """Such as those of thumbnails or deleted photos, which would be found in place of others."""
    inner = [".thumbnails/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "b/.git/c.jpg"]
    inner += ["#recycle/a.jpg", "b/$RECYCLE.BIN/S-1-5-21/$R1.jpg", "@Recycle/b/c.jpg"]
    inner += ["#snapshot/GMT+01-2026.11.27/a.jpg", "lost+found/a.jpg"]
    inner += ["~snapshot/hourly.0/a.jpg", "Recycle Bin/a.jpg", "RECYCLER/S-1-5-21/Dc1.jpg"]
    write_images(tmp_path / ".photos", ["a.jpg", "b/c.jpg", "@b/c.jpg", *inner])
    assert names_of(read_folder(tmp_path / ".photos")) == ["@b/c.jpg", "a.jpg", "b/c.jpg"]


def test_nothing_but_photos_that_cannot_be_read(tmp_path):
    for name in ("1.HEIC", "2.heic", "3.nef"):
        (tmp_path / name).write_bytes(b"\0")
    with pytest.raises(InputError, match=r"none but photos .* \(2 \.heic, 1 \.nef\); convert"):
        read_folder(tmp_path)


def test_other_files_are_no_photos(tmp_path, caplog):
    write_images(tmp_path, ["a.jpg"])
    for name in ("a.txt", "a.csv", "a.json", "a.mp4", "a.npy", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0")
    assert names_of(read_folder(tmp_path)) == ["a.jpg"] and not caplog.messages


@pytest.mark.parametrize("name", ["b.jpg.1", "photo.jpeg~", "c.jpg (1)", "IMG_0001", "d.image"])
def test_files_that_may_be_photos_are_told(tmp_path, caplog, name):
    (tmp_path / "sub").mkdir()
    for one in (f"sub/{name}", name, ".DS_Store", "b.xmp"):
        (tmp_path / one).write_bytes(b"\xff\xd8\xff")
    kinds = rf"\(2 (without an ending|{re.escape(Path(name).suffix)})\)"
    with pytest.raises(InputError, match=f"found none but 2 other files {kinds}"):
        read_folder(tmp_path)
    write_images(tmp_path, ["a.jpg"])
    assert names_of(read_folder(tmp_path)) == ["a.jpg"]
    (line,) = caplog.messages
    assert re.match(f"note: {tmp_path}: 2 other files are left out {kinds}; where they are", line)


# Lists beside folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "kinds"), [(["keys"], "1 without an ending"), (["a.npy", "b.txt"], "1 .npy, 1 .txt")]
)
def test_nothing_but_other_files(tmp_path, others, kinds):
    for name in others:
        (tmp_path / name).write_bytes(b"\0")
    line = re.escape(f"found none but {len(others)} other files ({kinds})")
    with pytest.raises(InputError, match=f"{line}$"):
        read_folder(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_list_with_a_byte_order_mark(tmp_path, encoding):
    """As PowerShell's `>` and Windows' editors write it."""
    names = ["b.jpg", "ä.jpg"]
    write_images(tmp_path / "db", [*names, "c.jpg"])
    (tmp_path / "db_images_paths.txt").write_bytes("\r\n".join(names).encode(encoding))
    assert names_of(read_folder(tmp_path / "db")) == names


def test_a_list_that_is_compressed(tmp_path):
    write_images(tmp_path / "db", ["a.jpg"])
    (tmp_path / "db_images_paths.txt").write_bytes(b"\x1f\x8b\x08a.jpg")
    with pytest.raises(InputError, match="a list of images in UTF-8, found a compressed file"):
        read_folder(tmp_path / "db")


@pytest.mark.parametrize("prefix", ["", "db/"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_list_beside_a_folder_is_its_content(tmp_path, caplog, prefix, end):
    """As VPR-methods-evaluation reads it: in that order, and nothing else."""
    write_images(tmp_path / "db", ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"])
    names = ["sub/c.jpg", "a.jpg", "d.jpg"]
    text = "".join(f"{prefix}{name}{end}" for name in names)
    (tmp_path / "db_images_paths.txt").write_bytes(text.encode())
    assert names_of(read_folder(tmp_path / "db")) == names
    assert "3 images, as listed in" in caplog.messages[0]


def test_a_list_of_absolute_paths(tmp_path, monkeypatch):
    """As VPR-methods-evaluation takes them; only those inside the folder, its links included."""
    write_images(tmp_path / "disk", ["a.jpg", "sub/b.jpg"])
    write_images(tmp_path / "outside", ["c.jpg"])
    (tmp_path / "db").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "db_images_paths.txt"
    file.write_text(f"{tmp_path}/db/sub/b.jpg\n{tmp_path}/disk/a.jpg\n")
    for folder in (tmp_path / "db", Path("db")):
        assert names_of(read_folder(folder)) == ["sub/b.jpg", "a.jpg"]
    for name in ("outside/c.jpg", "db/../outside/c.jpg", "db//etc/passwd", "db-2/a.jpg"):
        file.write_text(f"{tmp_path}/db/a.jpg\n{tmp_path}/{name}\n")
        with pytest.raises(InputError, match=r"db_images_paths.txt: .*inside the data folder, fou"):
            read_folder(tmp_path / "db")
    (tmp_path / "disk" / "c.jpg").symlink_to("/etc/passwd")
    file.write_text(f"{tmp_path}/db/c.jpg\n")
    with pytest.raises(InputError, match="inside the data folder, found a link to /etc/passwd"):
        read_folder(tmp_path / "db")


def test_a_list_that_names_images_twice(tmp_path, caplog):
    """As two lists in one do; also one without the other format that it names."""
    write_images(tmp_path / "db", ["a.jpg", "b.png"])
    (tmp_path / "db_images_paths.txt").write_text("a.jpg\nb.jpg\n./a.jpg\nb.png\n")
    assert names_of(read_folder(tmp_path / "db")) == ["a.jpg", "b.png"]
    assert "2 images are listed by 4 names" in caplog.messages[0]
    assert "2 images, as listed in" in caplog.messages[1]


def test_a_list_gives_positions_as_names_do(tmp_path):
    names = [f"{place}/@{500_000 + 100 * place}.5@4180000@.jpg" for place in range(3)]
    for folder in ("db", "q"):
        write_images(tmp_path / folder, names)
    (tmp_path / "db_images_paths.txt").write_text(f"{names[2]}\n{names[0]}")
    assert listed(read_folder_pair(tmp_path / "db", tmp_path / "q").positives) == [[1], [], [0]]


def test_a_small_part_of_a_long_list_is_found(tmp_path):
    """Where it lies shows by none of the names that decide for a whole benchmark."""
    names = [f"{index:04d}.jpg" for index in range(1000)]
    write_images(tmp_path / "images", names[1:4])
    found = locate([tmp_path, tmp_path / "images"], names, tmp_path / "list")
    assert np.flatnonzero(found.present).tolist() == [1, 2, 3]
    assert found.paths[0] == tmp_path / "images" / names[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg\nz.jpg\ny.jpg\n", r"expected 3 images in .*db, found 2 missing, the first .*z.jpg"),
        ("../db/a.jpg\n", "inside the data folder, found"),
        ("q/c.jpg\nq/c.jpg\n", r"expected 2 images in .*db, found 2 missing, the first .*q/c.jpg"),
        ("", "expected the images of .*db, a line each, found none"),
        ("../../etc/passwd\n", "inside the data folder, found"),
        ("/etc/passwd\n", "inside the data folder, found"),
        ("\udcff", "expected a list of images in UTF-8"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, message):
    write_images(tmp_path, ["db/a.jpg", "db/b.jpg", "q/c.jpg"])
    (tmp_path / "db_images_paths.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"db_images_paths.txt: .*{message}"):
        read_folder(tmp_path / "db")


# Labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", ["database", "queries"])
def test_labels_in_one_folder_only_measure_nothing(tmp_path, caplog, labelled):
    pair = [tmp_path / "town" / side for side in ("database", "queries")]
    for folder in pair:
        names = ["@500000@4180000@10@S@.jpg"] if folder.name == labelled else ["phone.jpg"]
        write_images(folder, names)
    found = read_folder_pair(*pair)
    assert found.positives is None and found.database_utm is None and found.queries_utm is None
    assert found.protocol.ground_truth == "none" and found.protocol.radius_m is None
    other = next(folder for folder in pair if folder.name != labelled)
    assert f"note: no recall is measured, as {other} has no @utm_east@" in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pano_1@0543256.96@4178906.70@10@S@.jpg", True),
        ("pano@543256.96@4178906.70.jpg", True),
        ("photo@2x.jpg", False),
        ("me@home@1.jpg", False),
    ],
)
def test_positions_behind_other_text_are_told(tmp_path, caplog, name, told):
    write_images(tmp_path / "a", [name])
    assert read_folder_pair(tmp_path / "a", tmp_path / "a").positives is None
    assert (f"no positions are read, as names such as {name} do not begin" in caplog.text) is told


@pytest.mark.parametrize("name", [*BENCHMARKS, "Nordland", "PITTS30K_test", "MSLS test", "MSLSVal"])
def test_a_folder_never_goes_by_a_benchmarks_name(tmp_path, name):
    for side in ("database", "queries"):
        write_image(tmp_path / name / side / "a.jpg")
    found = read_folder_pair(tmp_path / name / "database", tmp_path / name / "queries")
    assert found.protocol.name == f"{name}-folder"


def test_folders_at_the_root_of_a_disk_have_a_name(tmp_path, monkeypatch):
    """As a container's mounts are: /database and /queries."""
    for side in ("database", "queries"):
        write_image(tmp_path / side / "a.jpg")
    monkeypatch.setattr(folders, "resolved", lambda path: Path("/", path.name))
    found = read_folder_pair(tmp_path / "database", tmp_path / "queries")
    assert found.protocol.name == "queries in database"
