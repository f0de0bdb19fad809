"""Draws what a training run sees.

python -m mixvpr_jax.training.show --config NAME --output FOLDER
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixvpr_jax.errors import InputError, extra, run_command, run_words, starting

with starting(__name__), extra("train", "show: expected its packages"):
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from PIL import Image, ImageDraw

    from mixvpr_jax.data.config import DataConfig
    from mixvpr_jax.data.gsv_cities import Places
    from mixvpr_jax.data.sources import Sampler
    from mixvpr_jax.storage import AnyPath, as_path, atomic_folder, write_json
    from mixvpr_jax.training.config import TrainConfig
    from mixvpr_jax.training.recipes import load_recipe
    from mixvpr_jax.training.start import Images

SHEET_WIDTH, THUMBNAIL, MARGIN, CAPTION = 1680, 96, 8, 14  # pixels

logger = logging.getLogger(__name__)


def show(config: TrainConfig, output: AnyPath, step: int = 0) -> dict[str, Any]:
    """Draws a step's batch as training sees it, and statistics of the data set.

    Returns the content of statistics.json; raises InputError for wrong data, or no such step.
    """
    images = Images(config)
    total = len(images.batches)
    if not 0 <= step < total:
        raise InputError(f"step: expected 0 to {total - 1}, found {step}")
    batch = images.batches[step]
    for _, line in batch.unreadable:
        logger.warning("skipped: %s", line)
    pixels, _ = images.place(batch)
    found = statistics(images.source.places)
    with atomic_folder(output) as folder:
        sheet = contact_sheet(np.asarray(pixels), images.sampler, step)
        sheet.save(folder / "contact_sheet.jpg", quality=90)
        draw_statistics(found, folder / "statistics.png")
        write_json(folder / "statistics.json", found)
    return found


def statistics(places: Places) -> dict[str, Any]:
    """Numbers of places and images, in all and by city, and a histogram of images per place."""
    cities = {}
    for index, name in enumerate(places.cities):
        counts = places.counts[places.city == index]
        cities[name] = {"places": len(counts), "images": int(counts.sum())}
    numbers, frequency = np.unique(places.counts, return_counts=True)
    histogram = zip(numbers.tolist(), frequency.tolist(), strict=True)
    return {
        "places": len(places),
        "images": len(places.names),
        "cities": cities,
        "images_per_place": {str(number): count for number, count in histogram},
    }


def contact_sheet(images: np.ndarray, sampler: Sampler, step: int) -> Image.Image:
    """A step's images [b, h, w, 3] uint8, place by place."""
    places, count = sampler.places, sampler.config.images_per_place
    _, labels = sampler.batch(step)
    height, width = images.shape[1:3]
    size = max(1, round(THUMBNAIL * width / height)), THUMBNAIL
    strip = count * size[0] + MARGIN, THUMBNAIL + CAPTION + MARGIN
    columns = max(1, (SHEET_WIDTH - MARGIN) // strip[0])
    rows = -(-len(labels) // count // columns)
    shape = MARGIN + columns * strip[0], MARGIN + rows * strip[1]
    sheet = Image.new("RGB", shape, "white")
    drawing = ImageDraw.Draw(sheet)
    for index, label in enumerate(labels[::count]):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * strip[0], MARGIN + row * strip[1]
        caption = f"{places.cities[places.city[label]]} {places.place_id[label]}"
        drawing.text((left, top), caption, fill="black", font_size=11)
        for offset in range(count):
            thumbnail = Image.fromarray(images[index * count + offset]).resize(size)
            sheet.paste(thumbnail, (left + offset * size[0], top + CAPTION))
    return sheet


def draw_statistics(found: dict[str, Any], path: Path) -> None:
    """Draws places by city, and places by number of images."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    cities, counts = figure.subplots(1, 2, width_ratios=(3, 2))
    places = {name: city["places"] for name, city in found["cities"].items()}
    cities.bar(places.keys(), places.values(), color="#2a6f97")
    cities.tick_params("x", rotation=90 if len(places) > 6 else 0)
    cities.set(title=f"{found['places']:,} places in {len(places)} cities", ylabel="places")
    numbers = [int(number) for number in found["images_per_place"]]
    counts.bar(numbers, found["images_per_place"].values(), width=0.8, color="#2a6f97")
    counts.set(title=f"{found['images']:,} images", xlabel="images of a place", ylabel="places")
    counts.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (cities, counts):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Draws as the command line says and prints where."""
    words = [part for word in sys.argv[1:] for part in re.split("^(--config)=", word) if part]
    named = "--config" in words[:-1]  # its values are the defaults of the other options
    recipe = load_recipe(words[words.index("--config") + 1])[0] if named else TrainConfig()

    def command(config: str, output: str, step: int = 0, data: DataConfig = recipe.data) -> None:
        """Draws a batch as training sees it, place by place, and statistics of the data set.

        Args:
            config: The recipe's name, or the path of a file.
            output: Folder of contact_sheet.jpg, statistics.png and statistics.json.
            step: Step of the run, from 0.
            data: Training images.
        """
        del config
        folder = as_path(output)
        found = show(replace(recipe, data=data), folder, step)
        sys.stdout.write(
            f"{found['places']:,} places, {found['images']:,} images in {len(found['cities'])} "
            f"cities; look at {folder / 'contact_sheet.jpg'} and {folder / 'statistics.png'}\n"
        )

    run_words(command, sys.argv[1:], "python -m mixvpr_jax.training.show")


if __name__ == "__main__":
    run_command(main)
