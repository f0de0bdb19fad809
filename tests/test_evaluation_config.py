"""What may be asked of an evaluation together, and what has no effect and is refused."""

from pathlib import Path

import numpy as np
import pytest

from mixvpr_jax import InputError
from mixvpr_jax.evaluation.config import DescribeConfig, EvaluationConfig, PairsConfig
from mixvpr_jax.places.command import PlacesConfig

FOLDERS = {"database": Path("d"), "queries": Path("q")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected --dataset NAME, or --database FOLDER and --queries FOLDER"),
        ({"database": Path("d")}, "expected --dataset NAME, or --database"),
        ({"dataset": "sped", "queries": Path("q")}, "found both"),
        (
            {"dataset": "sped", "positive_radius_m": 3.0},
            "positive_radius_m: expected --database and --queries with it, found --dataset sped",
        ),
        ({"dataset": "sped", "recall_values": ()}, "recall_values: expected 1 or more"),
        ({"dataset": "sped", "recall_values": (0, 5)}, "recall_values: expected 1 or more"),
        ({"dataset": "sped", "recall_values": 5}, "recall_values: expected 1 or more, found 5"),
        ({"dataset": "sped", "recall_values": "15"}, "recall_values: expected 1 or more, found '1"),
        ({"dataset": "sped", "recall_values": (1, 2.5)}, "recall_values: expected 1 or more"),
        ({"dataset": "sped", "batch_size": "8"}, "batch_size: expected int . None, found '8'"),
        ({"dataset": "sped", "latency_queries": (5,)}, r"latency_queries: expected int, found \(5"),
        ({"dataset": "sped", "allow_subset": "False"}, "allow_subset: expected bool, found 'Fal"),
        ({"dataset": "sped", "skip_unreadable": "no"}, "skip_unreadable: expected bool, found 'no"),
        ({"dataset": "sped", "latency_queries": -1}, "latency_queries: expected 0 or more"),
        ({"dataset": "sped", "storage": "int8"}, "storage: unknown name"),
        (FOLDERS | {"data_dir": Path("d")}, "data_dir: expected --dataset NAME with it"),
        (FOLDERS | {"ground_truth": Path("d")}, "ground_truth: expected --dataset NAME with it"),
        (FOLDERS | {"allow_subset": True}, "allow_subset: expected --dataset NAME with it"),
        (FOLDERS | {"faiss_factory": "Flat"}, "faiss_factory: expected --index faiss with it"),
        (FOLDERS | {"faiss_nprobe": 2, "index": "approximate"}, "faiss_nprobe: expected --index f"),
        (
            FOLDERS | {"faiss_nprobe": 0, "index": "faiss"},
            "faiss_nprobe: expected a number",
        ),
        (
            FOLDERS | {"search_megabytes": 1024, "index": "faiss"},
            "search_megabytes: expected --index exact or approximate with it, found --index faiss",
        ),
        (FOLDERS | {"search_megabytes": 0}, "search_megabytes: expected a number above 0"),
        (FOLDERS | {"exclude_neighbours": -1}, "exclude_neighbours: expected 0 or more"),
        ({"dataset": "sped", "exclude_neighbours": 1}, "exclude_neighbours: expected --database"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        EvaluationConfig("weights", Path("out"), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exact, L2"),
        ({"search_megabytes": 7}, "exact, L2"),
        ({"index": "approximate", "search_megabytes": 7}, "approximate, L2"),
        ({"index": "faiss"}, "FAISS Flat, L2"),
        (
            {"index": "faiss", "faiss_factory": "IVF8,Flat", "faiss_nprobe": 3},
            "FAISS IVF8,Flat, nprobe 3, L2",
        ),
    ],
)
def test_how_neighbours_are_searched_in_words(options, words):
    assert EvaluationConfig("weights", Path("out"), **FOLDERS, **options).neighbours == words


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (lambda: DescribeConfig(weights="w", cache_gigabytes="2"), "cache_gigabytes: expected flo"),
        (lambda: DescribeConfig(weights="w", overwrite=1), "overwrite: expected bool, found 1"),
        (lambda: PairsConfig(top=(20,)), r"top: expected int, found \(20,\)"),
        (lambda: PairsConfig(overwrite="False"), "overwrite: expected bool, found 'False'"),
        (lambda: PlacesConfig(output="o", radius_m="10"), "radius_m: expected float, found '10'"),
        (
            lambda: PlacesConfig(output="o", min_images=[4]),
            r"min_images: expected int, found \[4\]",
        ),
    ],
)
def test_values_of_another_type(config, line):
    with pytest.raises(InputError, match=line):
        config()


def test_recall_values_are_plain_numbers():
    config = EvaluationConfig("w", "o", dataset="sped", recall_values=np.array([1, 5]))
    assert config.recall_values == (1, 5)
