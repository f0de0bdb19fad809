"""Small benchmarks in the authors' own layouts and formats, and what reads or refuses them."""

import csv
import functools
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mixvpr_jax.datasets import BENCHMARKS, read_benchmark
from mixvpr_jax.errors import InputError


@functools.cache
def _encoded(kind):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (90, 120, 60)).save(stream, kind)
    return stream.getvalue()


def write_image(path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded("PNG" if path.suffix == ".png" else "JPEG"))
    return path


def write_images(root, names):
    return [write_image(root / name) for name in names]


def object_array(items):
    """What `np.save` pickles: an array of arrays, of as many lengths."""
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def cells(names):
    """A MATLAB cell array of strings, n x 1."""
    return object_array(names).reshape(-1, 1)


def write_struct(file, database, queries, database_utm, queries_utm, **changes):
    """NetVLAD's dbStruct: fields in its order, positions 2 x N."""
    struct = {
        "whichSet": "test",
        "dbImageFns": cells(database),
        "utmDb": np.asarray(database_utm, float).T,
        "qImageFns": cells(queries),
        "utmQ": np.asarray(queries_utm, float).T,
        "numImages": float(len(database)),
        "numQueries": float(len(queries)),
        "posDistThr": 25.0,
        "posDistSqThr": 625.0,
        "nonTrivPosDistSqThr": 100.0,
    } | changes
    struct = {name: value for name, value in struct.items() if value is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"dbStruct": struct})
    return file


EAST, NORTH = 585_000.0, 4_477_000.0
PITTS_DATABASE = [f"00{i % 2}/00082{i}_pitch1_yaw1.jpg" for i in range(6)]
PITTS_DATABASE_UTM = [(EAST + 100 * i, NORTH) for i in range(6)]
PITTS_QUERIES = [f"000/00080{i}_pitch1_yaw{i}.jpg" for i in range(4)]
# At exactly 25 m of the first and the second, by it 25.01 m, and far from all.
PITTS_QUERIES_UTM = [
    (EAST + 15, NORTH + 20),
    (EAST + 100, NORTH - 25),
    (EAST + 200, NORTH + 25.01),
    (EAST, NORTH + 9000),
]
PITTS_POSITIVES = [[0], [1], [], []]


def pittsburgh_tree(root, stem="pitts30k_test", **changes):
    """Database images under the root, queries under queries_real, the struct in datasets."""
    write_images(root, PITTS_DATABASE)
    write_images(root / "queries_real", PITTS_QUERIES)
    lists = PITTS_DATABASE, PITTS_QUERIES, PITTS_DATABASE_UTM, PITTS_QUERIES_UTM
    write_struct(root / "datasets" / f"{stem}.mat", *lists, **changes)
    return root


def labelled_name(east, north, *, zone="17", key="", frame="", time="", note=""):
    """As VPR-datasets-downloader names files."""
    fields = (f"{east:010.2f}", f"{north:010.2f}", zone, "T", "040.44068", "-0080.00000", key)
    return "@" + "@".join((*fields, frame, "", "", "", "", time, note)) + "@.jpg"


def downloader_tree(root, split, database_utm, queries_utm):
    named_tree(root / "images" / split, "database", "queries", database_utm, queries_utm)
    return root


def named_tree(root, database, queries, database_utm, queries_utm):
    """Folders of these names, images by their positions; the key says which of the list."""
    for folder, positions in ((database, database_utm), (queries, queries_utm)):
        names = [labelled_name(*utm, key=f"{i}") for i, utm in enumerate(positions)]
        write_images(root / folder, names)
    return root


def tokyo_tree(root):
    """The struct says .jpg, the files are .png; queries have a .csv beside them."""
    database = [f"03814/381462/381462_{i}_012_000.jpg" for i in range(4)]
    queries = [f"0000{i}.jpg" for i in range(1, 4)]
    utm = [(381_462.0 + 40 * i, 3_946_000.0) for i in range(4)]
    write_images(root, [name.replace(".jpg", ".png") for name in database])
    write_images(root / "247query_subset_v2", queries)
    for name, time in zip(queries, "DSN", strict=True):
        line = f"{name},35.661388,139.701388,381000,3946000,{time}\n"
        (root / "247query_subset_v2" / name).with_suffix(".csv").write_text(line)
    write_struct(root / "tokyo247.mat", database, queries, utm, utm[:3])
    return root


def write_lists(folder, stem, database, queries, positives, gt="gt"):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{stem}_dbImages.npy", np.array(database))
    np.save(folder / f"{stem}_qImages.npy", np.array(queries))
    np.save(folder / f"{stem}_{gt}.npy", object_array(positives))
    return folder


def vpr_bench_tree(root, stem, positives, truth=None):
    """Images in ref and query; the lists in the authors' repository, which is elsewhere."""
    count = len(positives)
    database = [f"ref/{i:04d}.jpg" for i in range(count)]
    queries = [f"query/{i:04d}.jpg" for i in range(count)]
    write_images(root, [*database, *queries])
    write_lists(truth or root, stem, database, queries, positives)
    return root


def nordland_positives(count, step=10):
    """{10i-1, 10i, 10i+1}, clipped where the track ends."""
    return [
        np.array([f for f in (step * i - 1, step * i, step * i + 1) if 0 <= f < count])
        for i in range(count // step)
    ]


def nordland_tree(root, count=20, truth=None):
    database = [f"ref/{i}.png" for i in range(count)]
    queries = [f"query/{i}.png" for i in range(count // 10)]
    write_images(root, [*database, *queries])
    write_lists(truth or root, "Nordland", database, queries, nordland_positives(count))
    return root


def nordland_downloader_tree(root, count, *, step=1, metres=25 / 10.5):
    """Made-up positions: east 0, north by the frame, cut to tenths; the frame in its own field."""
    for folder, every in (("database", 1), ("queries", step)):
        for frame in range(0, count, every):
            north = int(10 * frame * metres) / 10
            name = f"@0@{north:07.1f}@@@@@{frame}@@@@@@@@.jpg"
            write_image(root / "images" / "test" / folder / name)
    return root


# Key, east, north, night, day of the shot, panorama.
MSLS_SHOTS = {
    ("cph", "database"): [
        ("cdb-0", 0, 0, False, "2018-07-01", False),
        ("c_db1", 20, 0, False, "2018-07-01", False),
        ("cdb2", 60, 0, False, "2018-07-01", True),
        ("cdb3", 100, 0, False, "2018-07-01", False),
    ],
    ("cph", "query"): [
        ("cq0", 1, 0, False, "2019-01-31", False),
        ("cq1", 45, 0, True, "2019-04-01", False),
        ("cq2", 60, 5, False, "2019-04-01", True),
        ("cq3", 900, 0, False, "2019-10-02", False),
    ],
    ("sf", "database"): [("sdb0", 0, 0, False, "2017-05-05", False)],
    ("sf", "query"): [("sq0", 0, 25, True, "2017-06-05", False)],
}  # fmt: skip
MSLS_ORIGIN = (347_000.0, 6_173_000.0)  # of both cities, so that mixing them would show


def write_table(file, columns, rows):
    """As pandas writes one: a first column without a name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("", *columns))
        writer.writerows((index, *row) for index, row in enumerate(rows))


DERIVED = ("key", "easting", "northing", "unique_cluster")
DERIVED += ("control_panel", "night", "view_direction")

RAW = ("key", "lon", "lat", "ca", "captured_at", "pano")


def msls_tree(root, images=True):
    """Mapillary's train_val, with its tables."""
    east0, north0 = MSLS_ORIGIN
    for (city, part), shots in MSLS_SHOTS.items():
        folder = root / "train_val" / city / part
        derived = [
            (key, east0 + east, north0 + north, 3, False, night, "Forward")
            for key, east, north, night, _, _ in shots
        ]
        write_table(folder / "postprocessed.csv", DERIVED, derived)
        raw = [(key, 12.5, 55.6, 90.0, day, pano) for key, _, _, _, day, pano in shots]
        write_table(folder / "raw.csv", RAW, raw)
        if images:
            write_images(folder / "images", [f"{shot[0]}.jpg" for shot in shots])
    return root


MSLS_DATABASE = [
    "train_val/cph/database/images/cdb-0.jpg",
    "train_val/cph/database/images/c_db1.jpg",
    "train_val/cph/database/images/cdb3.jpg",
    "train_val/sf/database/images/sdb0.jpg",
]
MSLS_QUERIES = [
    "train_val/cph/query/images/cq0.jpg",
    "train_val/cph/query/images/cq1.jpg",
    "train_val/cph/query/images/cq3.jpg",
    "train_val/sf/query/images/sq0.jpg",
]


def write_msls_lists(folder, q_index=(0, 1, 3), positives=((1, 0), (1,), (3,)), **changes):
    """The authors' four files: of all queries listed, those of qIdx are asked."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "dbImages": np.array(MSLS_DATABASE),
        "qImages": np.array(MSLS_QUERIES),
        "qIdx": np.array(q_index),
        "pIdx": object_array([np.array(found) for found in positives]),
    } | changes
    for name, array in arrays.items():
        np.save(folder / f"msls_val_{name}.npy", array)
    return folder


def msls_downloader_tree(root):
    """Every query that is no panorama, as format_mapillary.py moves and names them."""
    for (city, part), shots in MSLS_SHOTS.items():
        zone = {"cph": "33", "sf": "10"}[city]
        for key, east, north, night, day, panorama in shots:
            name = labelled_name(
                MSLS_ORIGIN[0] + east, MSLS_ORIGIN[1] + north, zone=zone, key=key,
                time=day.replace("-", ""), note=f"{'night' if night else 'day'}_forward_{city}",
            )  # fmt: skip
            if not panorama:
                folder = "queries" if part == "query" else "database"
                write_image(root / "val" / folder / name)
    return root


TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")


def msls_test_tree(root):
    """Keys by city; the last of each part is in no task."""
    for city in TEST_CITIES:
        for part, count in (("database", 3), ("query", 2)):
            keys = [f"{city[:2]}{part[0]}{i}" for i in range(count)]
            rows = [(key, i < count - 1, False) for i, key in enumerate(keys)]
            folder = root / "test" / city / part
            write_table(folder / "subtask_index.csv", ("key", "all", "s2w"), rows)
            write_images(folder / "images", [f"{key}.jpg" for key in keys])
    return root


def small(name, folder, **options):
    return read_benchmark(name, folder, allow_subset=True, **options)


def listed(found):
    return None if found is None else [indices.tolist() for indices in found]


def set_counts(monkeypatch, name, database, queries, about_database=None):
    """As if the protocol were over the few images of a test."""
    counts = {"num_database": database, "num_queries": queries}
    about = {"about_database": about_database, "about_queries": None}
    protocol = replace(BENCHMARKS[name], **counts, **about)
    monkeypatch.setitem(BENCHMARKS, name, protocol)
    return protocol


def refused(message, name, folder, **options):
    with pytest.raises(InputError, match=message) as raised:
        read_benchmark(name, folder, **options)
    assert "\n" not in str(raised.value)
    return raised.value


def refused_subset(message, name, folder, **options):
    return refused(message, name, folder, allow_subset=True, **options)
