"""One evaluation, from images to the files of its output folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from mixvpr_jax.datasets import read_benchmark, read_folder_pair
from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.distributed import is_main_process, raise_on_all_processes, require_same
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.comparison import check_comparable
from mixvpr_jax.evaluation.config import EvaluationConfig, data_folder
from mixvpr_jax.evaluation.describe import Encoder, compile_saliency
from mixvpr_jax.evaluation.describer import Describer, open_model
from mixvpr_jax.evaluation.export_index import FaissIndex
from mixvpr_jax.evaluation.output import (
    ALL_OUTPUTS,
    SUBMITTED,
    Evaluation,
    read_output,
    write_output,
)
from mixvpr_jax.evaluation.recall import (
    Recalls,
    best_positives,
    hits_by_rank,
    leave_out_own_photos,
    num_candidates,
    recall_by_condition,
    recall_intervals,
    recall_of,
    without_left_out,
)
from mixvpr_jax.evaluation.search import Index, Neighbours, search_on_all_processes
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.storage import AnyPath, atomic_folder, named_when_full, reaching
from mixvpr_jax.writable import require_free

RECALL_VALUES = (1, 5, 10, 20)
APPROXIMATE_RECALL = 0.99
# Fields that may differ between processes; what lies there may not.
OF_A_PROCESS = {
    *("output", "data_dir", "ground_truth", "database", "queries", "compare"),
    *("num_workers", "cache_gigabytes", "overwrite", "devices"),
}
COPY_DISTANCE = 1e-5  # what rounding may put between the descriptors of one photo

logger = logging.getLogger(__name__)


def evaluate(
    config: EvaluationConfig,
    write_report: Callable[[Path, AnyPath | None], object] | None = None,
) -> Evaluation:
    """Describes all images, finds neighbours, counts recall and writes it all.

    `write_report` adds a report to the folder of the results, which it is given with the other
    evaluation to compare with.

    Raises:
        InputError: Whatever is wrong with the model, the data or the output folder. Nothing is
            written then.
    """
    output = config.output
    with raise_on_all_processes():
        files = [output / name for name in ALL_OUTPUTS]
        require_free(files, "the results", overwrite=config.overwrite)
        data = read_data(config)
        ks = _recall_values(config, data)
        if config.compare is not None:
            left_out = config.exclude_neighbours or 0, data.num_own_queries
            other, name = read_output(config.compare), data.protocol.name
            check_comparable(other, name, data.queries, data.database, *left_out)
        model, preprocess = open_model(config)
    with ExitStack() as stack:
        folder = None
        with raise_on_all_processes():
            if is_main_process():  # opened first: hours of work need a place to go
                folder = stack.enter_context(atomic_folder(output))
        describer = Describer(config, model, preprocess, folder)
        with raise_on_all_processes():
            found = {"images": data.checksum(), "weights": describer.weights_hash[:8]}
            require_same({**asdict(config), **describer.how(), **found}, besides=OF_A_PROCESS)
        evaluation = _measure(config, describer, data, ks)
        with raise_on_all_processes(), named_when_full(output):
            if folder is not None:
                write_output(folder, config, model.config, evaluation)
                if write_report is not None:
                    write_report(folder, config.compare)
                # Again: another process may have filled an empty folder meanwhile.
                require_free(files, "the results", overwrite=config.overwrite)
                with reaching(output):
                    for file in files:  # earlier results that the new ones do not replace
                        if not (folder / file.name).exists():
                            file.unlink(missing_ok=True)
            stack.close()  # the results get their names: that may fail, too
    describer.prune()
    return evaluation


def read_data(config: EvaluationConfig) -> EvaluationSet:
    """The images and the ground truth that a configuration names."""
    if (name := config.dataset) is not None:
        folder = config.data_dir or data_folder(f"the folder of {name}; give --data-dir DIR")
        with reaching(folder):
            return read_benchmark(
                name, folder, ground_truth=config.ground_truth, allow_subset=config.allow_subset
            )
    assert config.database is not None and config.queries is not None
    radius_m = config.positive_radius_m or 25.0
    data = read_folder_pair(config.database, config.queries, radius_m=radius_m)
    if data.positives is None and config.positive_radius_m is not None:
        raise InputError(
            "positive_radius_m: expected positions in the names of both folders' images with it, "
            "found none; leave it out"
        )
    return leave_out_own_photos(data, config.exclude_neighbours)


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
    return tuple(sorted(set(values)))


def _measure(
    config: EvaluationConfig, describer: Describer, data: EvaluationSet, ks: Sequence[int]
) -> Evaluation:
    """Everything that is measured, of the images that can be read."""
    database, queries = describer.describe({"database": data.database, "queries": data.queries})
    unreadable = database.reasons + queries.reasons
    # A benchmark without some of its images is not what was published for.
    is_subset = data.is_subset or (bool(unreadable) and config.dataset is not None)
    data = replace(data.select(database.readable, queries.readable), is_subset=is_subset)
    if len(data.left_out):  # of some queries more than of others: the rest would not compare
        candidates = num_candidates(data)
        lacking = [f"recall@{k}" for k in ks if k > candidates]
        ks = [k for k in ks if k <= candidates]
        if config.recall_values and lacking and is_main_process():
            logger.warning(
                "note: no %s, as some query can find %d readable database images at most",
                *(", ".join(lacking), candidates),
            )
    index = _index(config, database.descriptors)
    found = _neighbours(config, index, data, queries.descriptors, ks)
    recalls, best, latency, saliency = None, None, {}, {}
    if data.positives is not None:
        right = hits_by_rank(found[0], data.positives)
        recall = recall_of(right, ks)
        by_condition = recall_by_condition(right, data.conditions, ks)
        recalls = Recalls(recall, recall_intervals(recall, len(right)), by_condition, right)
        both = queries.descriptors, database.descriptors
        best = best_positives(*both, data.positives, *found, data.left_out)
    if is_main_process() and config.latency_queries:
        search = partial(index.search, k=found[0].shape[1])
        paths = data.queries[: config.latency_queries]
        latency = measure_latency(describer.encoder(), describer.preprocess, search, paths)
    if is_main_process() and config.saliency_queries:
        look = compile_saliency(describer.model)
        for query, path in enumerate(data.queries[: config.saliency_queries]):
            pair = describer.preprocess([path, data.database[found[0][query, 0]]])
            saliency[query] = np.asarray(look(pair))
    return Evaluation(
        data,
        database.descriptors,
        queries.descriptors,
        *found,
        recalls=recalls,
        best_positives=best,
        latency=latency,
        saliency=saliency,
        unreadable=unreadable,
        num_turned=(database.num_turned, queries.num_turned),
        weights_hash=describer.weights_hash,
    )


def _index(config: EvaluationConfig, database: np.ndarray) -> Index | FaissIndex:
    """The index that was asked for."""
    if config.index == "faiss":
        return FaissIndex(database, config.faiss_factory or "Flat", nprobe=config.faiss_nprobe)
    return Index(
        database,
        memory_bytes=config.search_megabytes and config.search_megabytes << 20,
        recall_target=APPROXIMATE_RECALL if config.index == "approximate" else None,
    )


def _neighbours(
    config: EvaluationConfig,
    index: Index | FaissIndex,
    data: EvaluationSet,
    queries: np.ndarray,
    ks: Sequence[int],
) -> Neighbours:
    """Indices and distances [q, m] of the nearest; more than recall needs, where found."""
    candidates = num_candidates(data)
    needed = min(max([SUBMITTED if config.dataset == "msls-test" else 1, *ks]), candidates)
    wanted = min(max(needed, *RECALL_VALUES), candidates)
    found = search_on_all_processes(index.search, queries, wanted + len(data.database) - candidates)
    found = without_left_out(found, data.left_out, wanted)
    if found[0].shape[1] < needed:
        raise InputError(
            f"index: expected {needed} neighbours of every query, found fewer by "
            f"{config.neighbours}; search more of an IVF index's cells with "
            "--faiss-nprobe, or take another --faiss-factory"
        )
    copies = int((found[1][:, 0] < COPY_DISTANCE).sum())
    if copies and is_main_process():
        logger.warning(
            "note: %d of %d queries have a database photo at distance 0, as copies of one "
            "photo do; recall counts them as found",
            *(copies, len(queries)),
        )
    return found


def measure_latency(
    encode: Encoder,
    preprocess: Preprocess,
    search: Callable[[np.ndarray], object],
    paths: Sequence[AnyPath],
) -> dict[str, dict[str, float]]:
    """Times queries one by one, as a robot asks them; the first once more beforehand, to compile.

    Returns:
        "preprocessing" (with decoding), "model" and "search" → their `median_ms` and `p95_ms`.
    """
    search(np.asarray(encode(preprocess.resize(paths[0])[None]), np.float32))
    times = np.zeros((len(paths), 4))
    for row, path in zip(times, paths, strict=True):
        row[0] = time.perf_counter()
        image = preprocess.resize(path)[None]
        row[1] = time.perf_counter()
        descriptor = np.asarray(encode(image), np.float32)
        row[2] = time.perf_counter()
        search(descriptor)
        row[3] = time.perf_counter()
    both = 1e3 * np.percentile(np.diff(times), (50, 95), axis=0)
    taken = zip(("preprocessing", "model", "search"), both.T.tolist(), strict=True)
    return {stage: dict(zip(("median_ms", "p95_ms"), ms, strict=True)) for stage, ms in taken}
