"""A recipe of configs/ trained in PyTorch: python benchmarks/train_torch.py demo out/torch.ckpt.

The same images in the same batches, the same fresh weights, the same loss, miner, optimizer and
learning rates, validated in the same way; only the framework differs. It writes the best checkpoint
in the official layout, for `python -m convert.torch_to_flax` and `eval.py`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import tyro

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference_training import ReferenceTraining, official_model  # noqa: E402

from mixvpr_jax.conversion import to_state_dict  # noqa: E402
from mixvpr_jax.errors import InputError, run_command  # noqa: E402
from mixvpr_jax.preprocess import normalize  # noqa: E402
from mixvpr_jax.storage import atomic_write  # noqa: E402
from mixvpr_jax.training.config import TrainConfig  # noqa: E402
from mixvpr_jax.training.loop import Setup  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402


def main() -> None:
    """Trains as the command line says."""
    name, *arguments = sys.argv[1:] or ["demo"]
    recipe, _ = load_recipe(name)

    def command(
        output: tyro.conf.Positional[Path],
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe,
    ) -> None:
        train(config, output)

    tyro.cli(command, args=arguments, config=(tyro.conf.AvoidSubcommands,))


def train(config: TrainConfig, output: Path) -> None:
    """Trains, tells each epoch's recall, and writes the best model's checkpoint."""
    if (config.loss, config.miner) != ("MultiSimilarityLoss", "MultiSimilarityMiner"):
        raise InputError(
            f"loss, miner: expected MultiSimilarity, found {config.loss}, {config.miner}"
        )
    on_host = replace(config.data.augmentation, on="host")  # batches as PyTorch takes them
    config = replace(config, data=replace(config.data, augmentation=on_host))
    with TemporaryDirectory() as unused:
        setup = Setup(config, Path(unused))
    model = official_model(config.model.architecture)
    start = {name: torch.tensor(array) for name, array in to_state_dict(setup.model).items()}
    model.load_state_dict(start)
    training = ReferenceTraining(model, config.optimizer)
    rates, best, since = setup.learning_rates(), -1.0, time.perf_counter()
    for step, batch in enumerate(setup.batches()):
        real = batch.labels >= 0
        images = torch.from_numpy(normalize(batch.images[real])).permute(0, 3, 1, 2)
        training.step(images, torch.from_numpy(batch.labels[real]), float(rates[step]))
        if (step + 1) % setup.steps_per_epoch:
            continue
        recalls = setup.validation.recalls(lambda images: describe(model, images))
        epoch = (step + 1) // setup.steps_per_epoch
        shown = ", ".join(f"{name} {value:.1f}" for name, value in recalls.items())
        print(f"epoch {epoch} of {config.epochs}: {shown}", flush=True)
        metric = setup.selection.metric
        if metric is None or recalls[metric] >= best:
            best = recalls.get(str(metric), best)
            with atomic_write(output) as temporary:
                torch.save(model.state_dict(), temporary)
    print(f"{time.perf_counter() - since:.0f} s; checkpoint: {output}")


def describe(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Descriptors of normalised images [b, h, w, 3], in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        found = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model.train()
    return found


if __name__ == "__main__":
    run_command(main)
