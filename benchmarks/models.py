"""The table of models in docs/models.md: python benchmarks/models.py.

Sizes and operations are computed anew in each call. What takes longer is kept in models.json, and
measured again on request: `--compile v5e h100` (see compiled.py) and `--time`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import torch
import tyro
from flax import nnx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from descriptors import contenders, reference_of  # noqa: E402
from programs import model_config  # noqa: E402
from timing import count_flops, seconds  # noqa: E402

from benchmarks.compiled import Target, in_environment  # noqa: E402
from mixvpr_jax.evaluation.describe import compile_encoder  # noqa: E402
from mixvpr_jax.models.vpr import create_model  # noqa: E402

PAGE, FIGURES = ROOT / "docs" / "models.md", Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- table: python benchmarks/models.py -->", "<!-- end of table -->"
MODELS = (
    "resnet18_mixvpr",
    "resnet50_4096",
    "eigenplaces_resnet50_2048",
    "boq_resnet50_16384",
    "efficientnet_b0_convap",
    "swinv2_base_window12to16_192to256",
    "dinov2_vitb14_mixvpr",
    "dinov2_salad",
    "boq_dinov2_12288",
    "megaloc",
)
TITLES = (
    "model",
    "backbone, aggregator",
    "image, feature map, descriptor",
    "million parameters",
    "GFLOP an image",
    "v5e: GB moved, temporary",
    "H100: GB moved, temporary",
    "CPU: time against PyTorch",
    "difference from PyTorch",
)
IMAGES = 64  # that the compiled programs describe at a time


def main(
    models: tuple[str, ...] = MODELS,
    compile: tuple[Target, ...] = (),
    time: bool = False,
    rounds: int = 9,
) -> None:
    """Writes the table.

    Args:
        models: Which rows are computed anew; the others stay as models.json has them.
        compile: Accelerators to compile for, in bfloat16.
        time: Whether to compare each model with PyTorch eager, an image at a time, in float32:
            its time and its descriptor. EfficientNet and Swin V2 have no counterpart here.
        rounds: How often each side is timed.
    """
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in models:
        row = kept.setdefault(name, {})
        row |= sizes(name)
        for target in compile:
            found = in_environment(target, "describe", IMAGES, name)
            row[target] = {key: found[key] for key in ("bytes", "temporary")}
        if time and not name.startswith(("efficientnet", "swin")):
            row |= {"ratio": ratio(name, rounds), "difference": difference(name)}
        FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
        print(line(name, row), flush=True)
    lines = [line(name, kept[name]) for name in MODELS if name in kept]
    table = "\n".join([f"| {' | '.join(TITLES)} |", f"|{' --- |' * len(TITLES)}", *lines])
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


def sizes(name: str) -> dict[str, Any]:
    """What a model's shapes tell, and its operations as XLA counts them."""
    config = model_config(name, "float32")
    model = nnx.eval_shape(lambda: create_model(config))
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), np.float32)
    parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
    return {
        "parts": f"{config.arch}, {config.aggregator_name}",
        "image": "x".join(map(str, config.image_size)),
        "map": "x".join(map(str, (*config.feature_size, config.feature_channels))),
        "descriptor": config.descriptor_dim,
        "parameters": int(sum(np.prod(leaf.shape) for leaf in parameters)),
        "flops": count_flops(lambda state, x: nnx.merge(graph, state)(x), state, images),
    }


def ratio(name: str, rounds: int) -> float:
    """Our time for one image against PyTorch eager's: the median over rounds, side by side."""
    runs, _ = contenders(name, 1, "float32", compile=False)
    ours, eager = runs["mixvpr-jax"], runs["PyTorch eager"]
    return median(seconds(ours) / seconds(eager) for _ in range(rounds))


def difference(name: str) -> float:
    """Our descriptor of random weights and an image, in float32, from PyTorch's in float64."""
    model = create_model(model_config(name, "float32"))
    images = np.random.default_rng(0).standard_normal((1, *model.config.image_size, 3), np.float32)
    found = np.asarray(compile_encoder(model)(images))
    with torch.no_grad():
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float64))
        expected = reference_of(model).double()(tensor).numpy()
    return float(np.abs(found - expected).max())


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""

    def moved(target: str) -> str:
        found = row.get(target)
        return f"{found['bytes'] / 1e9:.1f}, {found['temporary'] / 1e9:.2f}" if found else ""

    cells = (
        f"`{name}`",
        row["parts"],
        f"{row['image']}, {row['map']}, {row['descriptor']:,}",
        f"{row['parameters'] / 1e6:.1f}",
        f"{row['flops'] / 1e9:.1f}",
        moved("v5e"),
        moved("h100"),
        f"{row['ratio']:.2f}" if "ratio" in row else "",
        f"{row['difference']:.0e}" if "difference" in row else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    tyro.cli(main)
