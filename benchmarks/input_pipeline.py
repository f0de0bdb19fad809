"""Images delivered to the device: python benchmarks/input_pipeline.py.

The official pipeline decodes, resizes, augments and normalises each image on the host (PyTorch's
DataLoader over what torchvision does with Pillow); ours decodes there and leaves the rest to the
device. Same files, same batches, same number of workers, in turn, in one run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import jax
import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from timing import machine, median_ratio, seconds  # noqa: E402

from demo.town import CityConfig, write_gsv_cities  # noqa: E402
from mixvpr_jax.data.augmentation import draw_operations, rand_augment  # noqa: E402
from mixvpr_jax.data.config import AugmentationConfig, DataConfig  # noqa: E402
from mixvpr_jax.data.device_augmentation import make_prepare  # noqa: E402
from mixvpr_jax.data.loader import Batch, Batches, read_batches  # noqa: E402
from mixvpr_jax.data.sources import Sampler, Source, open_source  # noqa: E402
from mixvpr_jax.distributed import data_mesh  # noqa: E402
from mixvpr_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from mixvpr_jax.training.recipes import load_recipe  # noqa: E402

SIZE = (320, 320)
WARM_UP = 4  # batches, while workers start and buffers fill


def main(
    data_dir: Path | None = None,
    cities: tuple[str, ...] = ("Avalon",),
    places: int = 30,
    images_per_place: int = 4,
    num_workers: int = os.cpu_count() or 1,
    batches: int = 16,
    rounds: int = 3,
    step: Literal["auto", "yes", "no"] = "auto",
) -> None:
    """Times how fast batches come.

    Args:
        data_dir: GSV-Cities; by default streets of 400x300 are drawn for the occasion.
        cities: Of it.
        places: Places a batch.
        images_per_place: Images of each.
        num_workers: Processes that read; our threads are as many as there are processors.
        batches: How many are timed, after the first few.
        rounds: How often each contender is timed.
        step: Whether to time the augmentation on the device against a training step of the official
            recipe, in bfloat16; auto does where there is an accelerator.
    """
    print(machine())
    print(f"workers: {num_workers}; batches of {places} x {images_per_place}\n")
    with TemporaryDirectory() as drawn:
        root = data_dir or draw(Path(drawn), cities)
        data = DataConfig(root, cities, places, images_per_place, images_per_place)
        source = open_source(data)
        on_device, on_host = (made(source, data, on_host=where) for where in (False, True))
        total = WARM_UP + batches

        def ours(of: Batches, workers: int) -> Generator[object]:
            return placed(read_batches(replace(of, num_steps=total), num_workers=workers))

        contenders: dict[str, Callable[[], Generator[object]]] = {
            "mixvpr-jax, threads": lambda: ours(on_device, 0),
            "mixvpr-jax, processes": lambda: ours(on_device, num_workers),
            "mixvpr-jax, host path, threads": lambda: ours(on_host, 0),
            "official": lambda: official(source, data, num_workers, total),
        }
        size = data.batch_size
        rates = {
            name: [size * batches / timed(start) for _ in range(rounds)]
            for name, start in contenders.items()
        }
        floor = median(decoded_per_second(source) for _ in range(rounds))
        tell(rates, floor, os.cpu_count() or 1)
        if step == "yes" or (step == "auto" and jax.default_backend() != "cpu"):
            against_step(on_device[0], places, images_per_place)


def draw(folder: Path, cities: tuple[str, ...]) -> Path:
    """Streets of the size of GSV-Cities' images."""
    town = CityConfig(120, 4, image_size=(300, 400), difficulty=0.5, seed=7)
    return write_gsv_cities(town, folder, cities=cities, workers=os.cpu_count() or 1)


def made(source: Source, data: DataConfig, *, on_host: bool) -> Batches:
    """Our batches, augmented on the host or left to the device."""
    sampler = Sampler(source.places, data, seed=1)
    return Batches(source, sampler, SIZE, data.batch_size, 10**6, on_host)


def placed(batches: Generator[Batch]) -> Generator[object]:
    """Batches on the device, before what the device does to them."""
    for batch in batches:
        yield jax.block_until_ready(jax.device_put(tuple(batch[:4])))


class OfficialPlaces(Dataset):
    """The official training data: a place's images, transformed one by one."""

    def __init__(self, source: Source, images_per_place: int, num_places: int) -> None:
        self.source, self.images_per_place = source, images_per_place
        self.num_places = num_places
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self.num_places

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        place = index % len(self.source.places)
        low, high = self.source.places.bounds[place : place + 2]
        chosen = low + self.rng.permutation(high - low)[: self.images_per_place]
        images = [self.transformed(self.source.places.name(image)) for image in chosen]
        return torch.stack(images), torch.tensor(place).repeat(len(images))

    def transformed(self, name: str) -> torch.Tensor:
        """An image as the official training transform makes it."""
        image = Image.open(f"{self.source.root}/{name}").convert("RGB")
        image = image.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)
        image = rand_augment(image, draw_operations(self.rng, 1, 3)[0], 9)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = (torch.from_numpy(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return tensor.sub_(mean).div_(std)


def official(source: Source, data: DataConfig, num_workers: int, total: int) -> Generator[object]:
    """The official loader's batches, on the device."""
    loader = DataLoader(
        OfficialPlaces(source, data.images_per_place, total * data.places_per_batch),
        batch_size=data.places_per_batch,
        num_workers=num_workers,
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
    )
    for images, labels in loader:
        yield (images.cuda(), labels.cuda()) if torch.cuda.is_available() else (images, labels)


def timed(start: Callable[[], Generator[object]]) -> float:
    """Seconds that the batches after the first few take to come."""
    with closing(start()) as batches:
        for _ in range(WARM_UP):
            next(batches)
        since = time.perf_counter()
        for _ in batches:
            pass
        return time.perf_counter() - since


def decoded_per_second(source: Source) -> float:
    """Images that one core reads and decodes in a second, and does nothing else with: the floor."""
    names = [source.places.name(image) for image in range(min(400, len(source.places.names)))]

    def decode() -> None:
        for name in names:
            with Image.open(f"{source.root}/{name}") as image:
                image.load()

    decode()
    return len(names) / seconds(decode)


def tell(rates: dict[str, list[float]], floor: float, cores: int) -> None:
    """A table: images a second and core, and how many times the official ones."""
    print("| contender | images/s | images/s/core | times official |")
    print("| --- | --- | --- | --- |")
    for name, found in rates.items():
        ratio = median_ratio(found, rates["official"])
        rate = median(found)
        print(f"| {name} | {rate:,.0f} | {rate / cores:,.0f} | {ratio:.1f} |")
    ratio = floor * cores / median(rates["official"])
    print(f"| floor: JPEG decoding alone | | {floor:,.0f} | {ratio:.1f} |")


def against_step(batch: Batch, places: int, images_per_place: int) -> None:
    """What resize and augmentation cost on the device, as a share of a step."""
    from train_step import batch as random_batch
    from train_step import jax_run

    recipe, _ = load_recipe("resnet50_mixvpr_4096")
    config = replace(recipe, model=replace(recipe.model, dtype="bfloat16"))
    images, labels = random_batch(config, places, images_per_place)
    run = jax_run(config, images, labels)
    prepare = make_prepare(AugmentationConfig(on="device"), SIZE, data_mesh())
    arrays = jax.device_put(batch[:3])
    jax.block_until_ready(prepare(*arrays))
    run()
    augment = median(seconds(lambda: jax.block_until_ready(prepare(*arrays))) for _ in range(10))
    step = median(seconds(run) for _ in range(10))
    print(
        f"\nresize and RandAugment: {1e3 * augment:.1f} ms a batch, {100 * augment / step:.1f} % "
        f"of a step of {1e3 * step:.1f} ms"
    )


if __name__ == "__main__":
    tyro.cli(main)
