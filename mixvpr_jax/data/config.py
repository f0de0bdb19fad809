"""Settings of the training data: places, order, augmentation, workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mixvpr_jax.checks import (
    require_known,
    require_not_negative,
    require_positive,
    to_plain_numbers,
    to_size,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import as_path

# In the official order (dataloaders/GSVCitiesDataloader.py of amaralibey/MixVPR).
# fmt: off
GSV_CITIES = (
    "Bangkok", "BuenosAires", "LosAngeles", "MexicoCity", "OSL", "Rome", "Barcelona", "Chicago",
    "Madrid", "Miami", "Phoenix", "TRT", "Boston", "Lisbon", "Medellin", "Minneapolis", "PRG",
    "WashingtonDC", "Brussels", "London", "Melbourne", "Osaka", "PRS",
)
# fmt: on

MAX_MAGNITUDE = 30  # of RandAugment

Order = Literal["by-city", "shuffled"]
Choice = Literal["random", "recent"]
Where = Literal["auto", "device", "host"]


@dataclass(frozen=True)
class AugmentationConfig:
    """RandAugment of training images, and where it and the resize before it run.

    Attributes:
        num_ops: Operations per image; 0 for none.
        magnitude: Their strength, 0 to 30.
        on: The accelerator (whole batches at a time), the host (exactly the official pixels, by
            Pillow), or auto: the accelerator if there is one.
        canvas: Largest height and width, in pixels, that the accelerator resizes (those of
            GSV-Cities); the host resizes larger images.
    """

    num_ops: int = 3
    magnitude: int = 9
    on: Where = "auto"
    canvas: tuple[int, int] = (300, 400)

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        to_size(self, "canvas")
        require_known("augmentation.on", self.on, get_args(Where))
        require_not_negative(self, "num_ops")
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise InputError(
                f"augmentation.magnitude: expected 0 to {MAX_MAGNITUDE}, found {self.magnitude}"
            )


@dataclass(frozen=True)
class DataConfig:
    """Training images: places of GSV-Cities, P places x K images a batch.

    Attributes:
        root: Folder of `Dataframes` and `Images`, or the output of
            `python -m mixvpr_jax.data.prepare`; a path or gs:// address. By default `gsv_cities`
            in the folder that MIXVPR_DATA names.
        cities: Cities, in this order; none means each that has a table.
        places_per_batch: P.
        images_per_place: K, chosen anew in each epoch.
        min_images_per_place: Places with fewer are left out.
        order: by-city shuffles places within each city, one city after another (official: batches
            of one city have hard negatives); shuffled shuffles all places.
        shuffle_cities: Whether each epoch takes the cities in another order.
        images: K random images of a place, or its K most recent.
        skip_missing: Whether to leave out images that are in a table but not on disk.
        max_unreadable: How many broken images each process may skip, with a warning each; one more
            ends the run.
        image_size: Height and width of training images in pixels, if they differ from the model's;
            MixVPR's feature map must stay the same.
        augmentation: What happens to the images.
        num_workers: Decoding processes; 0 for threads, None for what suits the machine.
        prefetch: Batches decoded ahead: in all with threads; by each process, three at least.
        timeout_seconds: How long a batch may take before the run ends.
    """

    root: str | Path | None = None
    cities: tuple[str, ...] = GSV_CITIES
    places_per_batch: int = 120
    images_per_place: int = 4
    min_images_per_place: int = 4
    order: Order = "by-city"
    shuffle_cities: bool = False
    images: Choice = "random"
    skip_missing: bool = False
    max_unreadable: int = 100
    image_size: tuple[int, int] | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    num_workers: int | None = None
    prefetch: int = 2
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        if not isinstance(self.cities, list | tuple):  # a set has another order in each process
            raise InputError(f"cities: expected names in a tuple, found {self.cities!r:.100}")
        few = {"places_per_batch": "no negatives", "images_per_place": "no positives"}
        for name, lacking in few.items():
            if (found := getattr(self, name)) < 2:
                raise InputError(f"{name}: expected 2 or more, found {found}: there are {lacking}")
        if self.min_images_per_place < self.images_per_place:
            raise InputError(
                f"min_images_per_place: expected images_per_place ({self.images_per_place}) or "
                f"more, found {self.min_images_per_place}"
            )
        if self.image_size is not None:
            to_size(self, "image_size")
        require_known("order", self.order, get_args(Order))
        require_known("images", self.images, get_args(Choice))
        require_positive(self, "prefetch", "timeout_seconds")
        require_not_negative(self, "num_workers", "max_unreadable")

    @property
    def batch_size(self) -> int:
        """Images of a full batch."""
        return self.places_per_batch * self.images_per_place

    @property
    def folder(self) -> str:
        """`root`, or else `gsv_cities` in MIXVPR_DATA; InputError if neither is set."""
        if self.root is not None:
            return os.fspath(as_path(self.root))
        if not (data := os.environ.get("MIXVPR_DATA")):
            raise InputError(
                "data.root: expected the folder of GSV-Cities; give --data.root FOLDER, or set "
                "MIXVPR_DATA to the folder that holds gsv_cities"
            )
        return os.fspath(as_path(data) / "gsv_cities")
