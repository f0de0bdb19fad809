"""Recall of a model in training on benchmarks and labelled folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mixvpr_jax.checks import closest, nearest
from mixvpr_jax.datasets import BENCHMARKS, read_benchmark, read_folder_pair, unlike_benchmarks
from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.distributed import AXIS, data_mesh
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.config import data_folder
from mixvpr_jax.evaluation.describe import Encoder, describe_images, normalized
from mixvpr_jax.evaluation.recall import (
    hits_by_rank,
    leave_out_own_photos,
    num_candidates,
    recall_of,
    without_left_out,
)
from mixvpr_jax.evaluation.search import Index, search_on_all_processes
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess, load_image
from mixvpr_jax.programs import trim_memory
from mixvpr_jax.storage import AnyPath, OutOfReach, as_path, reaching, resolved
from mixvpr_jax.training.config import ValidationConfig
from mixvpr_jax.training.log import Entry, read_log, values_of
from mixvpr_jax.training.step import TrainState
from mixvpr_jax.workers import num_processors

RECALL_VALUES = (1, 5, 10)
REMEDY = "fix that, or choose other --validation.sets, and run the same command to resume"

logger = logging.getLogger(__name__)


class Validation:
    """Measures recall on the sets of a configuration; compiles once for all epochs."""

    def __init__(self, config: ValidationConfig, model: VPRModel) -> None:
        """Lists the images of all sets, which all devices of this process will describe."""
        self.config, mesh = config, data_mesh(jax.local_devices())
        self.sets = {
            name: _read_set(config, as_path(path))
            for name, path in zip(set_names(config), config.sets, strict=True)
        }
        self.metrics = set(metrics_of(config))
        self.checksums = {name: data.checksum() for name, data in self.sets.items()}
        self.preprocess = Preprocess(model.config.image_size, model.config.interpolation)
        self.batch_size = -(-config.batch_size // mesh.size) * mesh.size
        self._images, self._weights = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
        graph, _, _ = nnx.split(model, nnx.Param, nnx.BatchStat)
        self._encode = jax.jit(
            lambda params, statistics, images: nnx.merge(graph, params, statistics)(
                normalized(images)
            )
        )

    def __call__(
        self, state: TrainState, on_progress: Callable[[int], object] = lambda images: None
    ) -> dict[str, float]:
        """`<set>/recall@<k>` → percent; `on_progress` gets the images done after each batch."""
        weights = state.params, state.statistics
        if jax.process_count() > 1:  # each process describes images of its own
            own = jax.tree.map(lambda array: array.addressable_data(0), weights)
            weights = jax.device_put(own, self._weights)

        def encode(images: np.ndarray) -> jax.Array:
            full = np.zeros((self.batch_size, *images.shape[1:]), images.dtype)
            full[: len(images)] = images  # a small set's batch must divide over the devices too
            return self._encode(*weights, jax.device_put(full, self._images))

        metrics = self.recalls(encode, on_progress)
        trim_memory()  # small arrays may have split the block that a step used
        return metrics

    def require_readable(self, *, besides: Container[str] = ()) -> None:
        """Decodes the images of all sets but some, to report broken ones before the first step."""
        for name, data in self.sets.items():
            if name in besides:
                continue
            images = (data.database + data.queries)[jax.process_index() :: jax.process_count()]
            logger.info("%s: decoding its images once (%d)", name, len(images))
            with ThreadPoolExecutor(num_processors()) as pool:
                broken = tuple(filter(None, pool.map(_why_unreadable, images)))
            if broken:
                raise InputError(
                    f"{broken[0]}; {name} has {len(broken)} such images: {REMEDY}", details=broken
                )

    def recalls(
        self, encode: Encoder, on_progress: Callable[[int], object] = lambda images: None
    ) -> dict[str, float]:
        """Recall of an encoder of images [b, h, w, 3], uint8, as descriptors [b, d]."""
        metrics = {}
        for name, data in self.sets.items():
            try:
                described = describe_images(
                    encode,
                    self.preprocess,
                    data.database + data.queries,
                    batch_size=self.batch_size,
                    on_progress=on_progress,
                ).descriptors
            except InputError as error:
                raise InputError(f"{error}; {name} was not measured: {REMEDY}") from error
            database, queries = np.split(described, [len(data.database)])
            most = max(RECALL_VALUES) + max(map(len, data.left_out), default=0)
            found = search_on_all_processes(Index(database).search, queries, most)
            found, _ = without_left_out(found, data.left_out, max(RECALL_VALUES))
            assert data.positives is not None
            recall = recall_of(hits_by_rank(found, data.positives), RECALL_VALUES)
            metrics |= {f"{name}/recall@{k}": percent for k, percent in recall.items()}
        return metrics


def set_names(config: ValidationConfig) -> tuple[str, ...]:
    """The names of the sets in metrics; no folder is named like a benchmark."""
    return tuple(
        name if str(path) in BENCHMARKS else unlike_benchmarks(name)
        for name, path in zip(config.names, config.sets, strict=True)
    )


def metrics_of(config: ValidationConfig) -> list[str]:
    """The names of the metrics that a validation gives."""
    return [f"{name}/recall@{k}" for name in set_names(config) for k in RECALL_VALUES]


def former_metrics(config: ValidationConfig) -> dict[str, str]:
    """Names that earlier versions, which followed links, gave to metrics → present names."""
    present, targets = set_names(config), (resolved(as_path(path)).name for path in config.sets)
    former = zip((*targets, *config.names), present * 2, strict=True)
    pairs = [(a, b) for a, b in former if a not in present]
    return {f"{a}/recall@{k}": f"{b}/recall@{k}" for a, b in pairs for k in RECALL_VALUES}


def rename_former(entries: Iterable[Entry], config: ValidationConfig) -> None:
    """Renames metrics of earlier versions in a log's entries."""
    renamed = former_metrics(config)
    for entry in entries:
        for former in renamed.keys() & entry.keys():
            entry[renamed[former]] = entry.pop(former)
            before, now = (name.rpartition("/")[0] for name in (former, renamed[former]))
            if before in (checksums := entry.get(SETS, {})):
                checksums[now] = checksums.pop(before)


def _why_unreadable(image: AnyPath) -> str:
    """The error line; "" for an image that can be read."""
    try:
        load_image(image)
    except OutOfReach:
        raise  # all others would fail too, each after half a minute
    except InputError as error:
        return str(error)
    return ""


def _read_set(config: ValidationConfig, path: AnyPath) -> EvaluationSet:
    if str(path) in BENCHMARKS:
        folder = config.data_dir or data_folder(f"the folder of {path}; give --validation.data-dir")
        data = read_benchmark(str(path), folder, ground_truth=config.ground_truth)
        if data.positives is None:
            raise InputError(f"{path}: expected ground truth to validate with, found none")
        return data
    with reaching(path):
        there, is_file = path.is_dir(), path.is_file()
    if not there:
        near = nearest(path) if len(path.parts) > 1 else ""
        near = near or closest(path.name.casefold(), BENCHMARKS)
        raise InputError(
            f"validation.sets: {path}: expected a benchmark's name, or a folder of database and "
            f"queries, found {'a file' if is_file else f'no such folder{near}'}"
        )
    data = read_folder_pair(path / "database", path / "queries", radius_m=config.positive_radius_m)
    if data.positives is None:
        raise InputError(
            f"{path / 'database'}: expected @utm_east@utm_north@ names, here and in queries, found "
            "none in one or both"
        )
    data = leave_out_own_photos(data)
    if len(data.left_out) and (most := num_candidates(data)) < max(RECALL_VALUES):
        line = "note: %s: recall@k counts %d neighbours at most: queries are database photos"
        logger.warning(line, path, most)
    return data


RADIUS_M = ValidationConfig.positive_radius_m  # of entries that name no other
SETS = "validation_sets"  # of an entry: set → checksum; earlier versions wrote none


@dataclass(frozen=True)
class Selection:
    """Ranks steps by a metric, among the recalls of the same images and positives.

    Attributes:
        metric: None without validation.
        radius_m: Largest distance of a positive in folders.
        checksums: Of each set that is read (see `Validation.checksums`).
    """

    metric: str | None
    radius_m: float
    checksums: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ValidationConfig) -> Selection:
        """The selection of a configuration; raises InputError for an unknown metric."""
        known = metrics_of(config)
        wanted = former_metrics(config).get(str(config.select_by), config.select_by)
        if wanted is not None and wanted not in known:
            what = closest(wanted, known) if known else "; there are no validation.sets"
            raise InputError(f"validation.select_by: unknown metric {wanted!r}{what}")
        return cls(wanted or next(iter(known), None), config.positive_radius_m)

    def ranked(self, entries: Iterable[Entry]) -> list[int]:
        """The validated steps, best first, and the later first among equals."""
        values = values_of(self.comparable(entries), self.metric) if self.metric else {}
        trained = [step for step in values if step > 0]
        return sorted(trained, key=lambda step: (values[step], step), reverse=True)

    def measured(self, entries: Iterable[Entry], step: int) -> dict[str, float]:
        """The metrics of a step's validation."""
        own = [entry for entry in self.comparable(entries) if entry["step"] == step]
        return {name: entry[name] for entry in own for name in entry if "/" in name}

    def measured_sets(self, workdir: AnyPath) -> set[str]:
        """The sets that the run has measured, whose images could thus all be read."""
        own = self.comparable(read_log(workdir / "metrics.jsonl"))
        return {name.rpartition("/")[0] for entry in own for name in entry if "/" in name}

    def entry(self, metrics: Mapping[str, float]) -> Entry:
        """A validation's log entry, with the radius if folders are measured by another."""
        has_folders = bool(self.checksums.keys() - BENCHMARKS.keys())
        other = has_folders and self.radius_m != RADIUS_M
        radius = {"positive_radius_m": self.radius_m} if other else {}
        return {**metrics, **radius, SETS: dict(self.checksums)}

    def comparable(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries without the recalls on other sets of the same name."""
        return [
            {name: value for name, value in entry.items() if self._is_own(name, entry)}
            for entry in entries
        ]

    def _is_own(self, metric: str, entry: Entry) -> bool:
        if "/" not in metric:
            return True
        name = metric.rpartition("/")[0]
        if (found := entry.get(SETS, {}).get(name)) is not None:
            return found == self.checksums.get(name, found)
        return name in BENCHMARKS or entry.get("positive_radius_m", RADIUS_M) == self.radius_m
