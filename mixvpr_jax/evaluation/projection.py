"""Shorter descriptors: a projection by PCA, learned of photos and kept in the model.

Jégou, Chum: "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and
whitening", ECCV 2012.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixvpr_jax.conversion import build_model, get_weights
from mixvpr_jax.errors import InputError, one_line
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describe import Described
from mixvpr_jax.evaluation.describer import Describer, open_model
from mixvpr_jax.evaluation.photos import find_photos
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.pretrained import from_pretrained, save_pretrained
from mixvpr_jax.storage import AnyPath, as_path, is_local, reaching, resolved
from mixvpr_jax.writable import require_writable

ROWS = 1024  # that are float64 at a time

# Of descriptors of unit norm, the least standard deviation of a direction that is no rounding. In
# float32 a value is off by 1e-9; whitening divides by the deviation, which scales that up.
LEAST_DEVIATION = 1e-6
LEAST_WHITENED = 1e-4


@dataclass(frozen=True)
class Projection:
    """A Linear layer: descriptors [n, d] → descriptors @ kernel + bias, [n, k].

    Attributes:
        kernel: [d, k] float64, a principal direction a column, that of most variance first.
        bias: [k] float64, which makes the mean of the photos it was learned of zero.
        explained: The share of variance that the k directions hold.
    """

    kernel: np.ndarray
    bias: np.ndarray
    explained: float


def learn_projection(descriptors: np.ndarray, size: int, *, whiten: bool = False) -> Projection:
    """Principal component analysis by the eigenvectors of the covariance.

    Args:
        descriptors: [n, d] of unit norm; read in chunks, so it may be mapped from a file.
        size: k, how many directions to keep.
        whiten: Whether each of them is scaled to unit variance.

    Raises:
        InputError: More directions than values, n that does not exceed k, or fewer directions in
            which the descriptors vary.
    """
    from scipy.linalg import eigh

    count, length = descriptors.shape
    _require(size, length, count)
    mean, covariance = _moments(descriptors)
    variances, directions = eigh(covariance, subset_by_index=(length - size, length - 1))
    variances, directions = variances[::-1], directions[:, ::-1]
    least = LEAST_WHITENED if whiten else LEAST_DEVIATION
    if (rank := int((variances > least**2).sum())) < size:
        raise InputError(
            f"size: expected at most {rank}, the directions in which descriptors of these photos "
            f"vary by more than {least:g}, found {size}; take more and other photos or a smaller "
            "--size"
        )
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    largest = directions[np.abs(directions).argmax(0), np.arange(size)]
    kernel = directions * np.sign(largest)
    if whiten:
        kernel = kernel / np.sqrt(variances)
    return Projection(kernel, -mean @ kernel, float(variances.sum() / np.trace(covariance)))


def _require(size: int, length: int, count: int) -> None:
    if not 1 <= size <= length:
        raise InputError(f"size: expected 1 to {length}, the model's descriptors, found {size}")
    if count <= size:
        raise InputError(
            f"size: expected more than {size:,} photos to learn {size:,} directions from, found "
            f"{count:,}; take more photos or a smaller --size"
        )


def _moments(descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and unbiased covariance [d, d] in float64, a chunk of rows after the other."""
    count, length = descriptors.shape
    starts = range(0, count, ROWS)
    chunks = (descriptors[at : at + ROWS].astype(np.float64) for at in starts)
    mean = sum((chunk.sum(0) for chunk in chunks), np.zeros(length)) / count
    covariance = np.zeros((length, length))
    for at in starts:
        chunk = descriptors[at : at + ROWS].astype(np.float64) - mean
        covariance += chunk.T @ chunk
    return mean, covariance / (count - 1)


def project(model: VPRModel, projection: Projection) -> VPRModel:
    """The model with a projection behind its aggregator."""
    learned = {"projection.kernel": projection.kernel, "projection.bias": projection.bias}
    config = replace(model.config, projection=len(projection.bias))
    return build_model(config, get_weights(model) | learned)


def _is_model(folder: AnyPath, weights: str) -> bool:
    """Whether weights are read of this folder, that of a model or of the run that wrote it."""
    if not weights.startswith("gs://") and not is_local(weights):  # of the hub
        return False
    read = as_path(weights)
    return resolved(folder) in (resolved(read), resolved(read / "model"))


def learn_model(
    photos: AnyPath, output: AnyPath, size: int, config: DescribeConfig, *, whiten: bool = False
) -> tuple[Described, Projection]:
    """Describes photos, learns a projection of their descriptors and writes the projected model.

    Photos are a folder, searched at any depth, or a list, a .txt with a name a line; `size` and
    `whiten` are those of `learn_projection`.

    Raises:
        InputError: Whatever is wrong with photos, model, size or output. Nothing is written then.
    """
    require_writable(output, "the model")
    with reaching(output):
        if output.exists() and _is_model(output, config.weights):
            raise InputError(
                f"{output}: expected another folder than that of --weights, which stays; choose "
                "another name"
            )
        if output.exists() and not config.overwrite:
            raise InputError(
                f"{output}: expected no such folder, found one; choose another name or give "
                "--overwrite"
            )
    own, _ = from_pretrained(config.weights)  # in its own dtype, which the new model keeps
    model, preprocess = open_model(config)
    if own.config.projection is not None:
        raise InputError(
            f"{config.weights}: expected a model without a projection, found one to "
            f"{own.config.projection} values; give the model that it was learned from"
        )
    _, paths = find_photos(photos)
    _require(size, model.config.descriptor_dim or 0, len(paths))  # before hours of work
    describer = Describer(config, model, preprocess)
    [found] = describer.describe({str(photos): paths})
    describer.prune()
    projection = learn_projection(found.descriptors, size, whiten=whiten)
    what = "PCA with whitening" if whiten else "PCA"
    name = one_line(config.weights.rstrip("/").rpartition("/")[2])
    origin = (
        f"Descriptors of {name} are projected to {size} values by {what}, learned of "
        f"{len(found.descriptors):,} photos ({projection.explained:.1%} of their variance)."
    )
    save_pretrained(project(own, projection), output, origin=origin)
    return found, projection
