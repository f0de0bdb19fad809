"""Exported files: FILE.onnx or FILE.stablehlo, and FILE.json that says what it is."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixvpr_jax.conversion import get_weights, weights_hash
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.models.transformer import flash_attention
from mixvpr_jax.models.vpr import VPRModel, require_evaluation
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from mixvpr_jax.storage import AnyPath, atomic_write, put_file, reaching, write_json
from mixvpr_jax.version import __version__
from mixvpr_jax.writable import require_free

PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = {".onnx": ("float32", "float16"), ".stablehlo": ("float32", "bfloat16")}
TOLERANCES = {"float16": 2e-2}  # of the largest value; other dtypes: 1e-5


def export_model(
    model: VPRModel,
    path: AnyPath,
    *,
    dtype: str,
    opset: int | None = None,
    preprocess: bool = False,
) -> dict[str, Any]:
    """Writes a model as a program with its weights, once it computes what the model does.

    Args:
        model: In evaluation mode.
        path: FILE.onnx, or FILE.stablehlo, which `jax.export.deserialize` reads.
        dtype: ONNX: float32 or float16. StableHLO computes as the model does.
        opset: ONNX's operators; 17 if not given.
        preprocess: Whether an ONNX graph resizes and normalises uint8 images.

    Returns:
        What FILE.json holds: the model, its input, and the largest difference to it on noise.

    Raises:
        InputError: An unknown ending, options that do not fit it, too large a difference.
    """
    _check(model, path, dtype, of_onnx=preprocess or opset is not None)
    shared = {
        "weights_sha256": weights_hash(get_weights(model)),
        "input": _input(model, preprocess=preprocess),
    }
    _require_facts_free(path, shared)
    (height, width), filter_of = model.config.image_size, model.config.interpolation
    # Twice as wide: one axis is resized, by weights that float32 holds exactly, to Pillow's bits.
    shape = 2, height, 2 * width if preprocess else width, 3
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = Preprocess((height, width), filter_of)(noise)
    with atomic_write(path.with_suffix(".json")) as described, atomic_write(path) as program:
        if path.suffix == ".onnx":
            opset = opset or 17
            options = {"dtype": dtype, "opset": opset, "preprocess": preprocess}
            found = _onnx(model, program, noise if preprocess else images, **options)
            how = {"opset": opset, "onnx": version("onnx"), "onnxruntime": version("onnxruntime")}
        else:
            found = _stablehlo(model, program, images)
            how = {"platforms": PLATFORMS, "jax": version("jax")}
        expected = np.asarray(jax.jit(lambda images: model(images))(jax.device_put(images)))
        difference = float(np.abs(found - expected).max())
        most = TOLERANCES.get(dtype, 1e-5) * float(np.abs(expected).max())
        if not difference <= most:
            raise InputError(
                f"{path}: expected the model's descriptors within {most:.2g}, found "
                f"{difference:.2g}; nothing was written"
            )
        output = "features" if model.config.aggregator is None else "descriptors"
        facts = {
            "mixvpr_jax": __version__,
            "model": model.config.to_dict(),
            **shared,
            "output": {"name": output, "shape": ["batch", *expected.shape[1:]]},
            "dtype": dtype,
            "largest_difference": difference,
        } | how
        for data in program.parent.glob("*.data"):
            facts["external_data"] = data.name
            put_file(data, path.with_name(data.name))
        write_json(described, facts)
    return facts


def _check(model: VPRModel, path: AnyPath, dtype: str, *, of_onnx: bool) -> None:
    """Raises InputError for what cannot be written."""
    require_evaluation(model)
    if path.suffix not in DTYPES:
        raise InputError(f"{path}: expected FILE.onnx or FILE.stablehlo, found another ending")
    if dtype not in DTYPES[path.suffix]:
        known = " or ".join(DTYPES[path.suffix])
        raise InputError(f"{path}: expected dtype {known}, found {dtype}")
    if path.suffix == ".stablehlo" and of_onnx:
        raise InputError(f"{path}: expected FILE.onnx with --preprocess or --opset")
    if isinstance(path, Path) and not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists, found no {path.parent}")
    require_free([path, path.with_suffix(".json")], "the program", overwrite=True)


def _require_facts_free(path: AnyPath, expected: dict[str, Any]) -> None:
    """Raises InputError if FILE.json is no program's, or of another one that it would misdescribe.

    FILE.onnx and FILE.stablehlo share it where they hold the same weights and take the same input.
    """
    facts = path.with_suffix(".json")
    (other,) = (path.with_suffix(suffix) for suffix in DTYPES if suffix != path.suffix)
    with reaching(facts):
        text = facts.read_bytes() if facts.exists() else None
        is_shared = other.exists()
    if text is None:
        return
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "largest_difference" not in found:
        raise InputError(f"{path}: expected no {facts.name} of another kind beside it; rename one")
    if is_shared and any(found.get(key) != value for key, value in expected.items()):
        raise InputError(
            f"{path}: expected the weights and the input of {other.name}, which {facts.name} "
            f"describes, found others; choose another name, or remove {other.name}"
        )


def _input(model: VPRModel, *, preprocess: bool) -> dict[str, Any]:
    """What the program takes; images of other sizes are resized to `image_size` before."""
    size = model.config.image_size
    facts = {"name": "images", "layout": "NHWC, RGB", "image_size": list(size)}
    facts["interpolation"] = f"{model.config.interpolation}, antialiased"
    if preprocess:
        return facts | {"dtype": "uint8", "shape": ["batch", "height", "width", 3]}
    mean, std = (value.astype(float).round(3).tolist() for value in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = {"normalised": "(pixel / 255 - mean) / std", "mean": mean, "std": std}
    return facts | {"dtype": "float32", "shape": ["batch", *size, 3]} | normalised


def _onnx(model: VPRModel, file: Path, images: np.ndarray, **options: Any) -> np.ndarray:
    """Writes the file, and computes by it what ONNX Runtime makes of images."""
    with extra("onnxruntime", "FILE.onnx: expected onnx and onnxruntime"):
        import onnx
        import onnxruntime  # noqa: F401

        from mixvpr_jax.export.graph import save, to_onnx
    from mixvpr_jax.export.engine import onnxruntime_run

    save(to_onnx(model, **options), file)
    onnx.checker.check_model(file, full_check=True)
    return onnxruntime_run(file)(images)


def _stablehlo(model: VPRModel, file: Path, images: np.ndarray) -> np.ndarray:
    """The same by JAX: a program for CPUs, GPUs and TPUs."""
    (batch,) = jax.export.symbolic_shape("batch")
    given = jax.ShapeDtypeStruct((batch, *model.config.image_size, 3), jnp.float32)
    without = flash_attention.set(False)
    try:
        describe = jax.jit(lambda images: model(images))
        program = jax.export.export(describe, platforms=PLATFORMS)(given)
    finally:
        flash_attention.reset(without)
    file.write_bytes(program.serialize())
    call = jax.export.deserialize(bytearray(file.read_bytes())).call
    return np.asarray(call(jax.device_put(images)))
