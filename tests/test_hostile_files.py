"""What readers stumbled over in campaigns of tests/fuzz, or would have."""

import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import torch_or_skip as torch
from benchmark_trees import (
    PITTS_DATABASE,
    object_array,
    pittsburgh_tree,
    refused_subset,
    small,
    tokyo_tree,
    write_image,
)
from checkpoints import saved
from exif import encoded
from PIL import Image
from tables import row, write_table

from mixvpr_jax import preprocess
from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.data.gsv_cities import read_places
from mixvpr_jax.datasets import positions
from mixvpr_jax.datasets.folders import read_folder
from mixvpr_jax.datasets.ground_truth import read_positives
from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import MAX_PIXELS, decode_image

# Images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PDF", "TGA", "JPEG2000", "PCX"])
def test_formats_that_photos_are_not_in(kind):
    """Of EPS Pillow has Ghostscript run whatever the file says."""
    content = encoded(Image.new("RGB", (32, 32)), kind)
    with pytest.raises(InputError, match=r"a.jpg: expected an image \(BMP, .*, found none of"):
        decode_image(content, "a.jpg")


@pytest.mark.parametrize("kind", preprocess.FORMATS)
def test_formats_that_they_are_in(kind):
    assert decode_image(encoded(Image.new("RGB", (4, 3)), kind), "a").size == (4, 3)


@pytest.mark.parametrize("size", [(10_000, 9_000), (14_000, 14_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(size):
    content = encoded(Image.new("1", size), "PNG")
    assert size[0] * size[1] > MAX_PIXELS > 900 * len(content)
    tracemalloc.start()
    with pytest.raises(
        InputError, match=r"a.png: .* found (10,000 x 9,000|one .*196000000 pixels)"
    ):
        decode_image(content, "a.png")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


# Checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1000", "9" * 9, "9" * 5000])
def test_mixers_in_great_number(path, state, number):
    """Each of them is built before its weights are missed."""
    state[f"aggregator.mix.{number}.mix.1.weight"] = torch.ones(2)
    with pytest.raises(InputError, match="mix_depth: expected 0 to 128|entries left over"):
        convert_checkpoint(saved(path, state))


def test_stages_of_many_digits(tmp_path):
    names = "backbone.frozen_layers.0.0.weight", f"backbone.frozen_layers.{'9' * 5000}.weight"
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(dict.fromkeys(names, np.ones(2, np.float32)), path)
    with pytest.raises(InputError, match="backbone: expected stages"):
        convert_checkpoint(path)


# Ground truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [1e10, -1e300, np.inf, np.nan])
def test_positions_beyond_the_earth(tmp_path, far):
    utm = np.full((2, 6), 5e5)
    utm[1, 2] = far
    pittsburgh_tree(tmp_path, utmDb=utm)
    refused_subset("expected positions in metres, found some", "pitts30k-test", tmp_path)
    write_image(tmp_path / "named" / f"@5e5@{far}@.jpg")
    with pytest.raises(InputError, match=r"expected (metres on Earth in|a name) @utm_east@utm_"):
        read_folder(tmp_path / "named")


def test_positions_that_are_all_the_same(tmp_path, monkeypatch):
    """Images times queries of positives."""
    monkeypatch.setattr(positions, "MAX_PAIRS", 23)
    pittsburgh_tree(tmp_path, utmDb=np.full((2, 6), 5e5), utmQ=np.full((2, 4), 5e5))
    refused_subset("expected at most 23 pairs .* within 25 m, found 24", "pitts30k-test", tmp_path)


def test_positives_that_are_listed_a_thousand_times(tmp_path):
    indices = np.arange(10_000)
    np.save(tmp_path / "a.npy", object_array([indices] * 1000), allow_pickle=True)
    tracemalloc.start()
    found = read_positives(tmp_path / "a.npy", 1000, 10_000)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
    tracemalloc.stop()
    assert all(np.array_equal(positives, indices) for positives in found)


def test_tables_beside_queries_that_are_none(tmp_path):
    root = tokyo_tree(tmp_path)
    (root / "247query_subset_v2" / "00001.csv").write_text("x" * 200_000)
    assert not small("tokyo247", root).conditions


def test_names_of_frames_in_no_known_encoding(tmp_path):
    for season in ("summer", "winter"):
        write_image(tmp_path / season / "1.jpg")
    (tmp_path / "cleanImageNames.txt").write_bytes(b"\xff\xfe1.jpg")
    refused_subset(
        "cleanImageNames.txt: expected a list of images in UTF-8", "nordland-full", tmp_path
    )


@pytest.mark.parametrize("frame", [2**63, -5, 10**12])
def test_frames_that_no_film_has(tmp_path, frame):
    for folder in ("database", "queries"):
        write_image(tmp_path / "images" / "test" / folder / f"@0@7@@@@@{frame}@@@@@@@@.jpg")
    assert len(small("nordland-full", tmp_path).database) == 1  # by the position instead


def test_structs_that_list_something_else(tmp_path):
    pittsburgh_tree(tmp_path, dbImageFns=np.array(PITTS_DATABASE))
    assert len(small("pitts30k-test", tmp_path).database) == 6
    pittsburgh_tree(tmp_path, dbImageFns=1j)
    message = "expected names in dbStruct.dbImageFns, found None"
    refused_subset(message, "pitts30k-test", tmp_path)


# Tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        ({"year": "9" * 400}, "line 2: expected numbers, .*found"),
        ({"month": 2**63}, "line 2: expected numbers, .*found"),
        ({"lat": "nan"}, "line 2: expected numbers, .*found"),
        ({"lon": "181"}, "line 2: expected numbers, .*found"),
        ({"northdeg": "9" * 5000}, "line 2: expected (numbers|an image's name)"),
        ({"panoid": "x" * 200_000}, "expected a table, found field larger than field limit"),
    ],
)
def test_values_that_are_none(tmp_path, hostile, message):
    write_table(tmp_path, "Rome", [row(1, **hostile)])
    with pytest.raises(InputError, match=message) as raised:
        read_places(tmp_path, ["Rome"])
    assert len(str(raised.value)) < 600
