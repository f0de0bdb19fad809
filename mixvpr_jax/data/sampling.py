"""Which images a training step sees: a pure function of seed, epoch and step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mixvpr_jax.data.augmentation import draw_operations
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.gsv_cities import Places

AUGMENTATION = 1905  # sets the draws of augmentation apart from those of the order


@dataclass(frozen=True, eq=False)
class Sampler:
    """Batches of P places x K images, cut from an epoch's places, the last one short.

    In the official order each city's places are shuffled and the cities follow one another: nearly
    every batch is of one city, which is what makes its negatives hard.

    Attributes:
        places: Of all cities, city after city.
        config: P, K and the order.
        seed: Of the order and the draws.
    """

    places: Places
    config: DataConfig
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last short one included."""
        return math.ceil(len(self.places) / self.config.places_per_batch)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a step, counted from the first of all, and their labels.

        Returns:
            [n] indices of images, K of each place together, and [n] their places' indices.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        images, labels = self._cached_epoch(epoch)
        part = slice(index * self.config.batch_size, (index + 1) * self.config.batch_size)
        return images[part], labels[part]

    def operations(self, step: int, num_images: int) -> np.ndarray:
        """The augmentations of a step's images: int8 [n, num_ops], see `draw_operations`."""
        rng = np.random.default_rng([self.seed, step, AUGMENTATION])
        return draw_operations(rng, num_images, self.config.augmentation.num_ops)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All images of an epoch, in order, and their labels; see `batch`."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self._order(rng)
        images = self._chosen(rng)[order]
        return images.ravel(), np.repeat(order, images.shape[1]).astype(np.int32)

    @cached_property
    def _cached_epoch(self):  # noqa: ANN202 - lru_cache has no type to name
        return lru_cache(2)(self.epoch)  # two: batches ahead may be of the next one

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_cached_epoch"}

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """[places] in an epoch's order."""
        if self.config.order == "shuffled":
            return rng.permutation(len(self.places))
        cities = np.unique(self.places.city)
        if self.config.shuffle_cities:
            cities = rng.permutation(cities)
        starts = np.searchsorted(self.places.city, cities)
        ends = np.searchsorted(self.places.city, cities, side="right")
        of_each = [np.arange(*span) for span in zip(starts, ends, strict=True)]
        return np.concatenate([rng.permutation(places) for places in of_each])

    def _chosen(self, rng: np.random.Generator) -> np.ndarray:
        """[places, K] images of each place."""
        places, count = self.places, self.config.images_per_place
        keys = places.age if self.config.images == "recent" else rng.random(len(places.names))
        by_place = np.lexsort((keys, np.repeat(np.arange(len(places)), places.counts)))
        return by_place[places.bounds[:-1, None] + np.arange(count)]
