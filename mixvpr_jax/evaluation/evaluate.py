"""One evaluation, from images to the files of its output folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import PIL
from tqdm import tqdm

from mixvpr_jax.conversion import get_weights
from mixvpr_jax.datasets import read_benchmark, read_folder_pair
from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.distributed import data_mesh, is_main_process, raise_on_all_processes
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.best_positives import best_positives
from mixvpr_jax.evaluation.cache import (
    DescriptorCache,
    OneWarning,
    content_key,
    prune,
    weights_hash,
)
from mixvpr_jax.evaluation.config import (
    FACTORY,
    RADIUS_M,
    RECALL_VALUES,
    SEARCH_MEGABYTES,
    EvaluationConfig,
)
from mixvpr_jax.evaluation.describe import Described, compile_encoder, describe_images
from mixvpr_jax.evaluation.faiss_index import FaissIndex
from mixvpr_jax.evaluation.latency import Latency, measure_latency
from mixvpr_jax.evaluation.output import check_output, remove_stale, write_output
from mixvpr_jax.evaluation.own_photos import (
    leave_out_own_photos,
    num_candidates,
    tell_copies,
    without_left_out,
)
from mixvpr_jax.evaluation.read_output import check_comparable, read_output
from mixvpr_jax.evaluation.recall import (
    hits_by_rank,
    recall_by_condition,
    recall_intervals,
    recall_of,
)
from mixvpr_jax.evaluation.result import Evaluation, Recalls
from mixvpr_jax.evaluation.saliency import compile_saliency
from mixvpr_jax.evaluation.search import Index, search_on_all_processes
from mixvpr_jax.evaluation.submission import MOST_PREDICTIONS
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.released import cache_folder
from mixvpr_jax.storage import AnyPath, atomic_folder, named_when_full, reaching
from mixvpr_jax.version import __version__
from mixvpr_jax.workers import num_processors

APPROXIMATE_RECALL = 0.99
_NO_CACHE = (OSError, RuntimeError, InputError)  # RuntimeError: there is no home


def evaluate(
    config: EvaluationConfig,
    write_report: Callable[[Path, AnyPath | None], object] | None = None,
) -> Evaluation:
    """Describes all images, finds neighbours, counts recall and writes it all.

    Args:
        config: What is evaluated, and how.
        write_report: Adds a report to the folder of the results, which it is given with the
            other evaluation to compare with.

    Raises:
        InputError: Whatever is wrong with the model, the data or the output folder. Nothing is
            written then.
    """
    with raise_on_all_processes():
        check_output(config)
        data = read_data(config)
        ks = _recall_values(config, data)
        if config.compare is not None:
            check_comparable(read_output(config.compare), data.name, data.queries, data.database)
        model, preprocess = from_pretrained(config.weights, dtype=config.dtype)
        if model.config.aggregator is None:
            raise InputError(f"{config.weights}: expected a whole model, found a bare backbone")
    with ExitStack() as stack:
        with raise_on_all_processes():
            # Opened first: better told now than after hours that one may not write there.
            folder = (
                stack.enter_context(atomic_folder(config.output)) if is_main_process() else None
            )
        evaluator = Evaluator(config, model, preprocess)
        evaluation = evaluator.evaluate(data, ks)
        with raise_on_all_processes(), named_when_full(config.output):
            if folder is not None:
                write_output(folder, config, model.config, evaluation)
                if write_report is not None:
                    write_report(folder, config.compare)
                remove_stale(config.output, folder)
            stack.close()  # the results get their names: that may fail, too
    evaluator.prune_cache()
    return evaluation


def read_data(config: EvaluationConfig) -> EvaluationSet:
    """The images and the ground truth that a configuration names."""
    if config.dataset is not None:
        with reaching(config.folder):
            return read_benchmark(
                config.dataset,
                config.folder,
                ground_truth=config.ground_truth,
                allow_subset=config.allow_subset,
            )
    assert config.database is not None and config.queries is not None
    radius_m = config.positive_radius_m or RADIUS_M
    data = read_folder_pair(config.database, config.queries, radius_m=radius_m)
    if data.positives is None and config.positive_radius_m is not None:
        raise InputError(
            "positive_radius_m: expected positions in the names of both folders' images with it, "
            "found none; leave it out"
        )
    return leave_out_own_photos(data, config.exclude_neighbours)


def measure_recall(
    data: EvaluationSet, predictions: np.ndarray, ks: Sequence[int]
) -> Recalls | None:
    """Recall of predictions [q, m], with what belongs to it; None without ground truth."""
    if data.positives is None:
        return None
    right = hits_by_rank(predictions, data.positives)
    recall = recall_of(right, ks)
    return Recalls(
        recall,
        recall_intervals(recall, len(right)),
        100 * np.maximum.accumulate(right, axis=1).mean(0),
        recall_by_condition(right, data.conditions, ks),
        right,
    )


class Evaluator:
    """A model and how it is evaluated; see `evaluate`."""

    def __init__(self, config: EvaluationConfig, model: VPRModel, preprocess: Preprocess) -> None:
        """Takes the model; nothing is computed yet."""
        self.config, self.model, self.preprocess = config, model, preprocess
        self.mesh = data_mesh(jax.local_devices())
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        each = max(1, num_processors() // 2 // self.mesh.size) if on_cpu else 16
        self.batch_size = config.batch_size or each * self.mesh.size
        self.encode = compile_encoder(model, self.mesh if self.mesh.size > 1 else None)
        self.weights_hash = weights_hash(get_weights(model))
        self.warn = OneWarning()

    def evaluate(self, data: EvaluationSet, ks: Sequence[int]) -> Evaluation:
        """Everything that is measured, of the images that can be read."""
        # disable=None: a bar on terminals alone, so that an error is the one line of a log.
        total = len(data.database) + len(data.queries)
        hidden = None if is_main_process() else True
        with tqdm(total=total, unit="image", desc="descriptors", disable=hidden) as progress:
            database = self.describe("database", data.database, progress)
            queries = self.describe("queries", data.queries, progress)
        unreadable = database.reasons + queries.reasons
        # A benchmark without some of its images is not what was published for.
        is_subset = data.is_subset or (bool(unreadable) and self.config.dataset is not None)
        data = replace(data.select(database.readable, queries.readable), is_subset=is_subset)
        index = self.index(database.descriptors)
        found = self.neighbours(index, data, queries.descriptors, ks)
        best = None
        if data.positives is not None:
            both = queries.descriptors, database.descriptors
            best = best_positives(*both, data.positives, *found, data.left_out)
        return Evaluation(
            data,
            database.descriptors,
            queries.descriptors,
            *found,
            recalls=measure_recall(data, found[0], ks),
            best_positives=best,
            latency=self.latency(data, partial(index.search, k=found[0].shape[1])),
            saliency=self.saliency(data, found[0]),
            unreadable=unreadable,
            num_turned=(database.num_turned, queries.num_turned),
            weights_hash=self.weights_hash,
        )

    def describe(self, what: str, paths: tuple[AnyPath, ...], progress: tqdm) -> Described:
        """Descriptors of image files, those that are known from the cache."""
        described = describe_images(
            self.encode,
            self.preprocess,
            paths,
            batch_size=self.batch_size,
            batch_multiple=self.mesh.size,
            num_workers=self.config.num_workers,
            storage=self.config.storage,
            skip_unreadable=self.config.skip_unreadable,
            cache=self._cache(paths),
            on_progress=progress.update,
        )
        if not described.readable.any():
            raise InputError(f"{what}: expected at least one readable image, found none")
        return described

    def index(self, database: np.ndarray) -> Index | FaissIndex:
        """Where neighbours are searched, by what was asked for."""
        if self.config.index == "faiss":
            factory = self.config.faiss_factory or FACTORY
            return FaissIndex(database, factory, self.config.faiss_nprobe)
        return Index(
            database,
            memory_bytes=(self.config.search_megabytes or SEARCH_MEGABYTES) << 20,
            recall_target=APPROXIMATE_RECALL if self.config.index == "approximate" else None,
        )

    def neighbours(
        self, index: Index | FaissIndex, data: EvaluationSet, queries: np.ndarray, ks: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances [q, m] of the nearest; more than recall needs, if they are found.

        Raises:
            InputError: The index finds too few.
        """
        candidates = num_candidates(data)
        is_challenge = self.config.dataset == "msls-test"
        needed = min(max(MOST_PREDICTIONS if is_challenge else 1, *ks), candidates)
        wanted = min(max(needed, *RECALL_VALUES), candidates)
        found = search_on_all_processes(index, queries, wanted + len(data.database) - candidates)
        found = without_left_out(found, data.left_out, wanted)
        if found[0].shape[1] < needed:
            assert isinstance(index, FaissIndex)
            raise index.too_few(needed)
        if is_main_process():
            tell_copies(found[1])
        return found

    def latency(
        self, data: EvaluationSet, search: Callable[[np.ndarray], object]
    ) -> dict[str, Latency]:
        """What one query takes, on one device."""
        paths = data.queries[: self.config.latency_queries]
        if not paths or not is_main_process():
            return {}
        return measure_latency(compile_encoder(self.model), self.preprocess, search, paths)

    def saliency(
        self, data: EvaluationSet, predictions: np.ndarray
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Where the model looks in the first queries and in their first matches."""
        if not self.config.saliency_queries or not is_main_process():
            return {}
        look = compile_saliency(self.model)
        maps = {}
        for query, path in enumerate(data.queries[: self.config.saliency_queries]):
            pair = self.preprocess([path, data.database[predictions[query, 0]]])
            maps[query] = look(*pair)
        return maps

    def prune_cache(self) -> None:
        """Keeps the cache within its limit."""
        if self.config.cache_gigabytes:
            try:
                prune(_descriptors_folder(), 1e9 * self.config.cache_gigabytes)
            except _NO_CACHE as error:
                self.warn(error)

    def _cache(self, paths: tuple[AnyPath, ...]) -> DescriptorCache | None:
        if not self.config.cache_gigabytes:
            return None
        key = content_key(self.weights_hash, paths, self._how())
        try:
            return DescriptorCache(_descriptors_folder() / key, self.warn)
        except _NO_CACHE as error:
            self.warn(error)
            return None

    def _how(self) -> dict[str, object]:
        """What descriptors depend on besides weights and images."""
        return {
            "model": self.model.config.to_dict(),
            "storage": self.config.storage,
            "batch_size": self.batch_size,
            "devices": [device.device_kind for device in self.mesh.devices.flat],
            "mixvpr_jax": __version__,
            "jax": jax.__version__,
            "pillow": PIL.__version__,
        }


def _descriptors_folder() -> Path:
    return cache_folder() / "descriptors"


def _recall_values(config: EvaluationConfig, data: EvaluationSet) -> tuple[int, ...]:
    """The k to count recall at; of a small database the usual ones are taken all the same."""
    candidates = num_candidates(data)
    values = config.recall_values or RECALL_VALUES
    if config.recall_values and max(values) > candidates:
        besides = " that are not left out" if len(data.left_out) else ""
        raise InputError(
            f"recall_values: expected at most {candidates:,}, the number of database images"
            f"{besides}, found {max(values):,}"
        )
    if len(data.left_out):  # of some queries more than of others: the rest would not compare
        values = [k for k in values if k <= candidates]
    return tuple(sorted(set(values)))
