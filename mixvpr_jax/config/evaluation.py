"""What to evaluate, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from mixvpr_jax.config.checks import require_known, require_positive, to_paths
from mixvpr_jax.config.model import Dtype
from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import AnyPath, as_path

Index = Literal["exact", "approximate", "faiss"]
Storage = Literal["float32", "float16"]

RECALL_VALUES = (1, 5, 10, 20)
RADIUS_M = 25.0


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and how: a benchmark by its name, or two folders.

    Folders lie on a disk, or in an object store (gs://bucket/folder).

    Attributes:
        weights: A model's folder, also on gs://, a released name or hf://organisation/repository.
        output: Folder for results.json, predictions.csv, descriptors and report.html.
        dataset: A benchmark, such as pitts30k-test or msls-val (docs/datasets.md lists them).
        data_dir: The benchmark's folder, or one that holds it; None is the folder that the
            environment variable MIXVPR_DATA names.
        ground_truth: Where the authors' .mat or .npy files lie, if not with the images.
        allow_subset: Take what there is of a benchmark, and mark the result as a subset.
        database: Folder of the images that are searched, in place of a benchmark.
        queries: Folder of the images that are looked for.
        positive_radius_m: How near, in metres, an image shows the same place, where file names
            hold positions (@utm_east@utm_north@…); 25 if not given. A benchmark has its own.
        recall_values: The k of recall@k; 1, 5, 10 and 20 if not given.
        batch_size: How many images the model sees at a time, over all devices; if not given, 16 a
            device, or one for two cores of a CPU, where more only take longer to come from memory.
        num_workers: Processes that decode; 0 for threads of this one, None for what suits the
            machine.
        dtype: What to compute in, if not what the model's configuration says.
        storage: What descriptors are kept in.
        index: Exact neighbours; approximate ones by `jax.lax.approx_max_k`, which TPUs are quick
            at; or an index of FAISS.
        faiss_factory: Which index of FAISS, in its own words.
        search_megabytes: What a search may take beside the descriptors themselves.
        cache_gigabytes: Descriptors are kept below MIXVPR_HOME and not computed twice; those that
            were not used for longest give way beyond this; 0 keeps none.
        latency_queries: How many queries are timed one by one; 0 for none.
        saliency_queries: For how many queries the report shows where the model looks.
        compare: The output folder of another evaluation of the same dataset, to set beside this.
        skip_unreadable: Leave out images that cannot be read, and count them.
        overwrite: Replace earlier results in the output folder.
    """

    weights: str
    output: AnyPath
    dataset: str | None = None
    data_dir: AnyPath | None = None
    ground_truth: AnyPath | None = None
    allow_subset: bool = False
    database: AnyPath | None = None
    queries: AnyPath | None = None
    positive_radius_m: float | None = None
    recall_values: tuple[int, ...] | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    dtype: Dtype | None = None
    storage: Storage = "float32"
    index: Index = "exact"
    faiss_factory: str = "Flat"
    search_megabytes: int = 1024
    cache_gigabytes: float = 20.0
    latency_queries: int = 50
    saliency_queries: int = 0
    compare: AnyPath | None = None
    skip_unreadable: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        to_paths(self, "output", "data_dir", "ground_truth", "database", "queries", "compare")
        require_positive(self, "search_megabytes")
        for name in ("batch_size", "positive_radius_m"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        require_known("storage", self.storage, get_args(Storage))
        require_known("index", self.index, get_args(Index))
        for name in ("num_workers", "cache_gigabytes", "latency_queries", "saliency_queries"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.recall_values is not None and min(self.recall_values, default=0) < 1:
            raise InputError(f"recall_values: expected 1 or more, found {self.recall_values}")
        self._check_source()

    def _check_source(self) -> None:
        folders = [self.database is not None, self.queries is not None]
        if self.dataset is None and not all(folders):
            raise InputError("expected --dataset NAME, or --database FOLDER and --queries FOLDER")
        if self.dataset is None:
            return
        if any(folders):
            raise InputError("expected --dataset or --database and --queries, found both")
        if self.positive_radius_m is not None:
            raise InputError(f"positive_radius_m: {self.dataset} has a radius of its own")

    @property
    def folder(self) -> AnyPath:
        """Where the benchmark lies.

        Raises:
            InputError: Neither `data_dir` nor MIXVPR_DATA says it.
        """
        if self.data_dir is not None:
            return self.data_dir
        return data_folder(f"the folder of {self.dataset}; give --data-dir DIR")


def data_folder(expected: str) -> AnyPath:
    """The folder that MIXVPR_DATA names.

    Args:
        expected: What it is for and how to say it otherwise, for the error.
    """
    if "MIXVPR_DATA" not in os.environ:
        raise InputError(f"expected {expected}, or set MIXVPR_DATA")
    return as_path(os.environ["MIXVPR_DATA"])
