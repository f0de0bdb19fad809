"""Names of files from strangers: what lies in folders, and what lists say lies there."""

import os
import shutil

import pytest
from benchmark_trees import MSLS_DATABASE, MSLS_QUERIES, small, write_image
from fuzzing import campaign, line_of
from hypothesis import given
from hypothesis import strategies as st

from mixvpr_jax.datasets import read_folder_pair
from mixvpr_jax.datasets.folders import read_folder
from mixvpr_jax.listing import locate

# In folders --------------------------------------------------------------------------------------

FIELDS = [
    "0550123.45",
    "4180345.67",
    "0",
    "-1",
    "25",
    "1_0",
    "１",
    "nan",
    "inf",
    "1e300",
    "1e999",
    "x",
    "",
]
FIELDS += [
    "9" * 30,
    " 7 ",
    "00012",
    "0x1",
    "32",
    "day_forward_cph",
    "_",
    "20180131",
    "é",
    "\udce9",
    "a\nb",
]
PLACES = [("0550123.45", "4180345.67"), ("500000", "0"), ("166021.4", "9999999.9"), ("1e5", "1e7")]
PLACES += [("48.85837", "2.29448"), ("-122.41941", "37.77493"), ("0.0", "-7.5"), ("180", "-90")]
ZONES = [("10", "S"), ("11", "S"), ("33", "M"), ("33", "N"), ("33", ""), ("33U", ""), ("061", "U")]
ZONES += [("0", "C"), ("60", "X"), ("1", "c"), ("32", "I"), ("３３", "U"), ("7", "N"), ("", "U")]
SUFFIXES = [".jpg", ".JPG", ".png", "", ".txt", "@.jpg", ".HEIC", ".gif"]


def possible(name):
    """Whether a file can be called so."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) < 256
    except UnicodeEncodeError:
        return False


@st.composite
def labels(draw):
    """A name of the form @…@…@.jpg, more or less."""
    field = st.sampled_from(FIELDS) | st.text(max_size=4)
    usual = draw(st.booleans())
    fields = draw(st.lists(field, min_size=14 if usual else 0, max_size=16))
    return (
        ("@" if draw(st.integers(0, 9)) else "")
        + "@".join(fields)
        + draw(st.sampled_from(SUFFIXES))
    )


@st.composite
def placed(draw):
    """A name that says where it is, and in which zone, in a form of few fields or of many."""
    east, north = draw(st.sampled_from(PLACES))
    zone, band = draw(st.sampled_from(ZONES))
    return f"@{east}@{north}@{zone}@{band}@{draw(st.text('abc@', max_size=12))}.jpg"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("names")


NAMED = ("pitts30k-test", "tokyo247", "msls-val-all", "nordland-full", "nordland-selavpr", "sped")
NAMED += ("st-lucia", "amstertime")


@campaign(150)
@given(
    st.lists((labels() | placed()).filter(possible), min_size=2, max_size=5)
    | st.lists(placed(), min_size=2, max_size=5),
    st.sampled_from(NAMED),
)
def test_names_in_folders(folders, names, dataset):
    pair = folders / "database", folders / "queries"
    for index, folder in enumerate(pair):
        shutil.rmtree(folder, ignore_errors=True)
        for name in names[index::2]:
            write_image(folder / name)
    line_of(read_folder_pair, *pair, inside=folders)
    line_of(small, dataset, folders, inside=folders)


@campaign(60)
@given(st.lists(labels().filter(possible), max_size=3), st.binary(max_size=40), st.booleans())
def test_lists_beside_folders(folders, names, more, all_there):
    """Whatever a list says lies in a folder, and whatever does lie there."""
    root = folders / "listed" / "database"
    shutil.rmtree(root.parent, ignore_errors=True)
    write_image(root / "a.jpg")
    for name in names if all_there else ():
        write_image(root / name)
    text = b"\n".join([*map(os.fsencode, names), more])
    root.with_name("database_images_paths.txt").write_bytes(text)
    line_of(read_folder, root, inside=folders)


# In lists ----------------------------------------------------------------------------------------

PARTS = ["a.jpg", "a.png", "ref", "images", "..", ".", "", "~", "C:", "\0", "secret.jpg", "x" * 300]
PARTS += [
    "inner",
    "inner.jpg",
    "loop",
    "é",
    "\udce9",
    "\ud800",
    "a\nb",
    "*",
    "%2e%2e",
]
STARTS = ["", "/", "//", "\\", "\\\\server\\", "C:\\", "file:///", "../", "~/"]


@st.composite
def listed(draw):
    parts = draw(st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=5))
    if draw(st.booleans()):
        parts.append("outer.jpg")  # at the end: as a folder, a link may lead anywhere
    between = draw(st.sampled_from(("/", "\\", "//")))
    return draw(st.sampled_from(STARTS)) + between.join(parts)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A data folder with links inside of it and out of it."""
    home = tmp_path_factory.mktemp("lists")
    root = home / "data"
    for path in ("a.jpg", "ref/a.jpg", "images/ref/a.png", *MSLS_DATABASE, *MSLS_QUERIES):
        write_image(root / path)
    for path in ("secret.jpg", "elsewhere/secret.jpg", "elsewhere/a.jpg"):
        write_image(home / path)
    (root / "inner").symlink_to("ref")
    (root / "inner.jpg").symlink_to(root / "ref" / "a.jpg")
    (root / "loop").symlink_to(root)
    (root / "outer.jpg").symlink_to("../secret.jpg")
    (root / "ref" / "outer.jpg").symlink_to("../../elsewhere/a.jpg")
    return root


def read_listed(root, names):
    found = locate([root, root / "images"], names, root / "list.npy")
    for path, there in zip(found.paths, found.present, strict=True):
        if there and path.is_file():
            path.read_bytes()


@campaign(300)
@given(st.lists(listed(), min_size=1, max_size=3))
def test_names_in_lists(tree, names):
    line_of(read_listed, tree, names, inside=tree)
