"""What to evaluate, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from mixvpr_jax.checks import require_known, require_positive, to_paths
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Dtype
from mixvpr_jax.storage import AnyPath, as_path

Index = Literal["exact", "approximate", "faiss"]
Storage = Literal["float32", "float16"]

RECALL_VALUES = (1, 5, 10, 20)
RADIUS_M = 25.0
FACTORY = "Flat"
SEARCH_MEGABYTES = 1024


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
        exclude_neighbours: For queries that are files of the database, how many frames before and
            after each, in the order of names, are left out of its neighbours and positives; the
            query itself always is.
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
        faiss_factory: Which index of FAISS, in its own words; Flat if not given.
        faiss_nprobe: How many cells of an IVF index are searched for a query; FAISS's own number,
            1, if not given.
        search_megabytes: What an exact or approximate search may take beside the descriptors
            themselves; 1024 if not given.
        cache_gigabytes: Size limit of the descriptor cache below MIXVPR_HOME; least recently used
            entries are evicted. 0 disables the cache.
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
    faiss_factory: str | None = None
    faiss_nprobe: int | None = None
    search_megabytes: int | None = None
    cache_gigabytes: float = 20.0
    latency_queries: int = 50
    saliency_queries: int = 0
    compare: AnyPath | None = None
    skip_unreadable: bool = False
    overwrite: bool = False
    exclude_neighbours: int | None = None

    def __post_init__(self) -> None:
        to_paths(self, "output", "data_dir", "ground_truth", "database", "queries", "compare")
        for name in ("batch_size", "positive_radius_m", "faiss_nprobe", "search_megabytes"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        require_known("storage", self.storage, get_args(Storage))
        require_known("index", self.index, get_args(Index))
        counts = ("num_workers", "cache_gigabytes", "latency_queries", "saliency_queries")
        for name in (*counts, "exclude_neighbours"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.recall_values is not None and min(self.recall_values, default=0) < 1:
            raise InputError(f"recall_values: expected 1 or more, found {self.recall_values}")
        self._check_source()
        self._check_search()

    def _check_source(self) -> None:
        folders = [self.database is not None, self.queries is not None]
        if self.dataset is None:
            if not all(folders):
                raise InputError(
                    "expected --dataset NAME, or --database FOLDER and --queries FOLDER"
                )
            for name in ("data_dir", "ground_truth", "allow_subset"):
                if getattr(self, name):
                    raise InputError(f"{name}: expected --dataset NAME with it, found two folders")
            return
        if any(folders):
            raise InputError("expected --dataset or --database and --queries, found both")
        if self.positive_radius_m is not None:
            raise InputError(f"positive_radius_m: {self.dataset} has a radius of its own")
        if self.exclude_neighbours is not None:
            raise InputError(
                f"exclude_neighbours: expected --database and --queries with it, found "
                f"--dataset {self.dataset}"
            )

    def _check_search(self) -> None:
        """What has no effect on the index that was asked for is a mistake."""
        of_faiss = ("faiss_factory", "faiss_nprobe")
        for name in ("search_megabytes",) if self.index == "faiss" else of_faiss:
            if getattr(self, name) is not None:
                wanted = "exact or approximate" if self.index == "faiss" else "faiss"
                raise InputError(
                    f"{name}: expected --index {wanted} with it, found --index {self.index}"
                )

    @property
    def neighbours(self) -> str:
        """How neighbours are searched, in words."""
        if self.index != "faiss":
            return f"{self.index}, L2"
        cells = "" if self.faiss_nprobe is None else f", nprobe {self.faiss_nprobe}"
        return f"FAISS {self.faiss_factory or FACTORY}{cells}, L2"

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
