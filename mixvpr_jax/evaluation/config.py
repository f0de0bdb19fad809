"""What to describe or evaluate, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from mixvpr_jax.checks import (
    require_known,
    require_not_negative,
    require_positive,
    to_plain_numbers,
    to_whole_numbers,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import Dtype, Engine
from mixvpr_jax.storage import AnyPath, as_path, to_paths

Index = Literal["exact", "approximate", "faiss"]
Storage = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """How photos are described.

    Attributes:
        weights: Model folder (also gs://), a released name, or hf://organisation/repository.
        batch_size: Images per batch, over all devices; if not given, 64, or 16 a device where that
            is more, or on a CPU one image per two cores, where larger batches are slower.
        num_workers: Processes that decode and resize; 0 for threads, None for what suits the
            machine.
        dtype: Dtype to compute in; if not given, the model's own. tensorfloat32 lets GPUs round
            factors to 10 bits; descriptors are then no longer equal to the official ones.
        engine: What computes: JAX, or on a CPU ONNX Runtime or OpenVINO, faster there, from
            the same weights (openvino-bfloat16: faster still, to a cosine of 0.998).
        storage: Dtype of the descriptors.
        cache_gigabytes: Size limit of the descriptor cache below MIXVPR_HOME; least recently used
            entries are evicted. 0 disables the cache.
        skip_unreadable: Leave out images that cannot be read, and count them.
        overwrite: Replace earlier results.
    """

    weights: str
    batch_size: int | None = None
    num_workers: int | None = None
    dtype: Dtype | None = None
    engine: Engine = "jax"
    storage: Storage = "float32"
    cache_gigabytes: float = 20.0
    skip_unreadable: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_positive(self, "batch_size")
        require_known("storage", self.storage, get_args(Storage))
        require_known("engine", self.engine, get_args(Engine))
        require_not_negative(self, "num_workers", "cache_gigabytes")


@dataclass(frozen=True)
class EvaluationConfig(DescribeConfig):
    """What to evaluate, and how: a benchmark by its name, or two folders.

    Folders lie on a disk, or in an object store (gs://bucket/folder).

    Attributes:
        weights: Model folder (also gs://), a released name, or hf://organisation/repository.
        output: Folder for results.json, predictions.csv, descriptors and report.html.
        dataset: Benchmark (docs/datasets.md says what each stands for): pitts30k-val,
            pitts30k-test, pitts250k-val, pitts250k-test, msls-val, msls-val-all, msls-test,
            nordland, nordland-full, nordland-selavpr, sped, essex, crossseason, inria, tokyo247,
            svox-test, svox-night, svox-overcast, svox-rain, svox-snow, svox-sun, st-lucia,
            eynsham, amstertime, sf-xl-v1, sf-xl-v2, sf-xl-night, sf-xl-occlusion or sf-landmark.
        data_dir: The benchmark's folder or its parent; MIXVPR_DATA if not given.
        ground_truth: Where the authors' .mat or .npy files lie, if not with the images.
        allow_subset: Evaluate an incomplete benchmark, and mark the result as a subset.
        database: Folder of the database images, in place of a benchmark.
        queries: Folder of the query images.
        exclude_neighbours: For queries that are files of the database: how many frames before and
            after each (in the order of names) to exclude from its neighbours and positives. The
            query itself always is.
        positive_radius_m: Largest distance of a positive in metres, where file names hold
            positions (@utm_east@utm_north@…); 25 if not given. A benchmark has its own.
        recall_values: The k of recall@k; 1, 5, 10 and 20 if not given.
        index: Exact neighbours; approximate ones by `jax.lax.approx_max_k`, which is fast on TPUs;
            or an index of FAISS.
        faiss_factory: The index in FAISS's words; Flat if not given.
        faiss_nprobe: Cells of an IVF index that are searched for a query; FAISS's default is 1.
        search_megabytes: Memory that an exact or approximate search may take besides the
            descriptors; if not given, a quarter of what is free on an accelerator, or 1024.
        latency_queries: How many queries are timed one by one; 0 for none.
        saliency_queries: For how many queries the report shows where the model looks.
        compare: Output folder of another evaluation of the same dataset, to compare with.
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
    index: Index = "exact"
    faiss_factory: str | None = None
    faiss_nprobe: int | None = None
    search_megabytes: int | None = None
    latency_queries: int = 50
    saliency_queries: int = 0
    compare: AnyPath | None = None
    exclude_neighbours: int | None = None

    def __post_init__(self) -> None:
        to_paths(self, "output", "data_dir", "ground_truth", "database", "queries", "compare")
        super().__post_init__()
        require_positive(self, "positive_radius_m", "faiss_nprobe", "search_megabytes")
        require_known("index", self.index, get_args(Index))
        require_not_negative(self, "latency_queries", "saliency_queries", "exclude_neighbours")
        if self.recall_values is not None:
            to_whole_numbers(self, "recall_values", "1 or more")
            if min(self.recall_values, default=0) < 1:
                raise InputError(f"recall_values: expected 1 or more, found {self.recall_values}")
        folders = [self.database is not None, self.queries is not None]
        if self.dataset is None and not all(folders):
            raise InputError("expected --dataset NAME, or --database FOLDER and --queries FOLDER")
        if self.dataset is not None and any(folders):
            raise InputError("expected --dataset or --database and --queries, found both")
        if "/" in (self.dataset or ""):
            raise InputError(
                f"dataset: expected a benchmark's name, found the path {self.dataset}; give the "
                "folder of a benchmark as --data-dir, others as --database and --queries"
            )
        self._check_effects()

    def _check_effects(self) -> None:
        """Refuses options that have no effect with this source or index."""
        is_faiss, index = self.index == "faiss", f"--index {self.index}"
        is_benchmark, source = self.dataset is not None, f"--dataset {self.dataset}"
        of_benchmarks = ("data_dir", "ground_truth", "allow_subset")
        of_folders = ("positive_radius_m", "exclude_neighbours")
        for names, has_effect, needed, found in (
            (of_benchmarks, is_benchmark, "--dataset NAME", "two folders"),
            (of_folders, not is_benchmark, "--database and --queries", source),
            (("faiss_factory", "faiss_nprobe"), is_faiss, "--index faiss", index),
            (("search_megabytes",), not is_faiss, "--index exact or approximate", index),
        ):
            for name in () if has_effect else names:
                if getattr(self, name) is not None and getattr(self, name) is not False:
                    raise InputError(f"{name}: expected {needed} with it, found {found}")

    @property
    def neighbours(self) -> str:
        """How neighbours are searched, in words."""
        if self.index != "faiss":
            return f"{self.index}, L2"
        cells = "" if self.faiss_nprobe is None else f", nprobe {self.faiss_nprobe}"
        return f"FAISS {self.faiss_factory or 'Flat'}{cells}, L2"


def data_folder(expected: str) -> AnyPath:
    """The folder that MIXVPR_DATA names; an error says what was `expected` in its place."""
    if not (folder := os.environ.get("MIXVPR_DATA")):
        raise InputError(f"expected {expected}, or set MIXVPR_DATA")
    return as_path(folder)


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs.

    Attributes:
        top: How many database photos of each query.
        exclude_near: For queries that are database photos: how many frames before and after each,
            in the order of names (10), or how many seconds (30s, by names that are
            Unix times, else by EXIF), to leave out. The photo itself always is.
        min_score: Least cosine similarity of a pair.
        queries: Descriptors of the queries, if they are in a file of their own.
        photos: Folder that names are relative to; for an evaluation by default the deepest one
            that holds all its photos.
        overwrite: Replace an earlier file.
    """

    top: int = 20
    exclude_near: str | None = None
    min_score: float | None = None
    queries: str | None = None
    photos: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_positive(self, "top")
