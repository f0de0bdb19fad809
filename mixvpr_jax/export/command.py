"""`mixvpr export WEIGHTS FILE.onnx` or FILE.stablehlo; FILE.json beside it says what it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Annotated, Literal

import tyro

from mixvpr_jax.errors import ending_at_once, run_command
from mixvpr_jax.storage import as_path

_Word = tyro.conf.Positional


def run(arguments: list[str], prog: str) -> None:
    """Exports as the command line says."""
    run_command(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """The same; errors are the caller's to report."""
    tyro.cli(interface(), prog=prog, args=arguments)


def interface() -> Callable[..., None]:
    """What the command line calls."""
    return export


def export(
    weights: Annotated[str, _Word, tyro.conf.arg(metavar="WEIGHTS")],
    output: Annotated[str, _Word, tyro.conf.arg(metavar="FILE")],
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    opset: int | None = None,
    preprocess: bool = False,
) -> None:
    """Writes a model with its weights as a program for other runtimes.

    Args:
        weights: Model folder (also gs://), a released name, or hf://organisation/repository.
        output: FILE.onnx, or FILE.stablehlo for jax.export; FILE.json is written as well.
        dtype: Of weights and products: float16 for ONNX, bfloat16 for StableHLO.
        opset: ONNX's operators, 17 to 23; if not given 17, or 18 with --preprocess.
        preprocess: The ONNX graph takes uint8 images of any size, and resizes and normalises them.
    """
    path = as_path(output)
    with ending_at_once():
        from mixvpr_jax.export.files import export_model
        from mixvpr_jax.pretrained import from_pretrained

    model, _ = from_pretrained(weights, dtype="bfloat16" if dtype == "bfloat16" else "float32")
    facts = export_model(model, path, dtype=dtype, opset=opset, preprocess=preprocess)
    print(f"largest difference to JAX: {facts['largest_difference']:.2g}")
    print(f"written: {shlex.quote(output)}")
    if data := facts.get("external_data"):
        print(f"its weights are in {shlex.quote(data)}, which is to stay beside it")
