"""Descriptors a second, against PyTorch, side by side in one run: python benchmarks/descriptors.py.

Each round times every contender once, in turn. The floor is the model's arithmetic at the speed of
this machine's best large matrix product.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import numpy as np
import torch
import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from programs import model_config  # noqa: E402
from reference import official_options  # noqa: E402
from reference_dinov2 import TorchModel  # noqa: E402
from reference_torch import VPRModel as ResNetModel  # noqa: E402
from timing import Run, count_flops, in_turn, machine, median_ratio, peak_flops  # noqa: E402

from mixvpr_jax.conversion import get_weights  # noqa: E402
from mixvpr_jax.conversion.key_table import to_torch  # noqa: E402
from mixvpr_jax.evaluation.describe import compile_encoder  # noqa: E402
from mixvpr_jax.export.engine import EngineModel  # noqa: E402
from mixvpr_jax.models.backbones import VITS  # noqa: E402
from mixvpr_jax.models.vpr import VPRModel, create_model  # noqa: E402


def main(
    name: str = "resnet50_4096",
    batch_sizes: tuple[int, ...] = (1, 8),
    rounds: int = 15,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile: bool = True,
) -> None:
    """Times the descriptors of normalised images that already lie on the device.

    Args:
        name: A released model or recipe, on a ResNet or DINOv2; its weights are drawn at random.
        batch_sizes: Images a call.
        rounds: How often each contender is timed.
        dtype: What both sides compute in.
        compile: Whether torch.compile takes part (it needs a C++ compiler on a CPU).
    """
    print(machine())
    peak = peak_flops(dtype)
    print(f"\nlargest matrix product: {peak / 1e9:,.0f} GFLOP/s ({dtype})\n")
    print("| batch | contender | images/s | ms a call: median (min) | time against eager |")
    print("| --- | --- | --- | --- | --- |")
    for batch in batch_sizes:
        runs, flops = contenders(name, batch, dtype, compile)
        times = in_turn(runs, rounds)
        for contender, values in times.items():
            ratio = median_ratio(values, times["PyTorch eager"])
            report(batch, contender, median(values), min(values), f"{ratio:.2f}")
        report(batch, f"floor ({flops / 1e9:.1f} GFLOP)", flops / peak, flops / peak, "")


def report(batch: int, contender: str, typical: float, best: float, ratio: str) -> None:
    """Prints one line of the table."""
    milliseconds = f"{typical * 1e3:.1f} ({best * 1e3:.1f})"
    print(
        f"| {batch} | {contender} | {batch / typical:.1f} | {milliseconds} | {ratio} |", flush=True
    )


def contenders(name: str, batch: int, dtype: Any, compile: bool) -> tuple[dict[str, Run], float]:
    """What takes part, each warmed up, and the floating-point operations of one call."""
    model = create_model(model_config(name, dtype))
    config = model.config
    reference = reference_of(model)
    images = np.random.default_rng(0).standard_normal((batch, *config.image_size, 3), np.float32)
    ours, flops = jax_run(model, images)
    runs: dict[str, Run] = {"mixvpr-jax": ours}
    if jax.default_backend() == "cpu" and dtype == "float32":
        for engine in ("onnxruntime", "openvino", "openvino-bfloat16"):
            runs[f"mixvpr-jax, {engine}"] = partial(EngineModel(model, engine), images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layouts = {"eager": torch.contiguous_format, "channels-last": torch.channels_last}
    for label, layout in layouts.items():
        place = {"device": device, "dtype": getattr(torch, dtype), "memory_format": layout}
        inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(**place)
        module = copy.deepcopy(reference).to(**place)
        runs[f"PyTorch {label}"] = torch_run(module, inputs)
        if compile and label == "channels-last":
            runs["PyTorch compiled"] = torch_run(torch.compile(module), inputs)
    for run in runs.values():
        for _ in range(3):
            run()
    return runs, flops


def reference_of(model: VPRModel) -> torch.nn.Module:
    """The same model in PyTorch, on a ResNet or DINOv2: images [b, 3, h, w] → descriptors."""
    config = model.config
    if config.arch in VITS:
        return TorchModel(model).eval()
    stages, options = config.layers_to_crop, official_options(config)
    reference = ResNetModel(config.arch, stages, config.aggregator_name, options)
    state = to_torch(get_weights(model)).items()
    reference.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in state})
    return reference.eval()


def jax_run(model: Any, images: np.ndarray) -> tuple[Run, float]:
    """Our side, compiled, and its floating-point operations as XLA counts them."""
    arrays = jax.device_put(images)
    encode = compile_encoder(model)
    flops = len(images) * count_flops(model, arrays[:1])  # XLA counts a loop over images once
    return lambda: jax.block_until_ready(encode(arrays)), flops


def torch_run(module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Run:
    """PyTorch's side; on a GPU the call lasts until the device is done."""

    def run() -> None:
        with torch.inference_mode():
            module(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    tyro.cli(main)
