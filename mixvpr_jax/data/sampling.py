"""Which images a training step sees: a pure function of seed, epoch and step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from mixvpr_jax.data.gsv_cities import Place


@dataclass(frozen=True)
class Sampler:
    """Batches of P places x K images in the official order.

    In each epoch each city's places are shuffled, the cities follow one another and batches are cut
    straight through, the last one short: nearly every batch is of one city, which is what makes its
    negatives hard.

    Attributes:
        places: Of all cities, city after city.
        places_per_batch: P.
        images_per_place: K, drawn from each place's images without replacement.
        seed: Of the order and the draws.
    """

    places: Sequence[Place]
    places_per_batch: int
    images_per_place: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last short one included."""
        return math.ceil(len(self.places) / self.places_per_batch)

    def epoch(self, epoch: int) -> list[list[tuple[str, int]]]:
        """Each batch of an epoch: image paths below the data set's folder, and their labels.

        The label of an image is its place's index, whatever the city.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order: list[int] = []
        for _, group in groupby(range(len(self.places)), lambda index: self.places[index].city):
            order += rng.permutation(list(group)).tolist()
        images = [image for index in order for image in self._draw(index, rng)]
        size = self.places_per_batch * self.images_per_place
        return [images[at : at + size] for at in range(0, len(images), size)]

    def _draw(self, index: int, rng: np.random.Generator) -> list[tuple[str, int]]:
        names = self.places[index].images
        drawn = rng.random(len(names)).argsort()[: self.images_per_place]
        return [(names[image], index) for image in drawn]
