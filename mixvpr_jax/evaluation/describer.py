"""A model that describes photos as a configuration says, with what it knows from earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL
from jax.sharding import Mesh
from tqdm import tqdm

from mixvpr_jax.conversion import get_weights, weights_hash
from mixvpr_jax.distributed import data_mesh, is_main_process
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.cache import DescriptorCache, OneWarning, code_hash, content_key, prune
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describe import Described, Encoder, compile_encoder, describe_images
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess, normalize
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.released import cache_folder
from mixvpr_jax.storage import AnyPath
from mixvpr_jax.workers import num_processors


def open_model(config: DescribeConfig) -> tuple[VPRModel, Preprocess]:
    """The model that describes; raises InputError for a bare backbone."""
    model, preprocess = from_pretrained(
        config.weights, dtype=config.dtype or (None if config.engine == "jax" else "float32")
    )
    if model.config.aggregator is None:
        raise InputError(f"{config.weights}: expected a whole model, found a bare backbone")
    return model, preprocess


class Describer:
    """A model on all devices of this process, and the descriptor cache.

    Attributes:
        encode: Images [b, h, w, 3], uint8 → descriptors [b, d].
        weights_hash: SHA-256 of the model's weights.
    """

    def __init__(
        self,
        config: DescribeConfig,
        model: VPRModel,
        preprocess: Preprocess,
        temporary: Path | None = None,
    ) -> None:
        """Compiles nothing yet; many descriptors go into a file in `temporary`."""
        self.config, self.model, self.preprocess = config, model, preprocess
        self.temporary = temporary
        self.mesh = data_mesh(jax.local_devices())
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        size = self.mesh.size
        each = max(1, num_processors() // 2 // size) if on_cpu else max(16, 64 // size)
        self.batch_size = config.batch_size or each * size
        self.encode = self.encoder(self.mesh if self.mesh.size > 1 else None)
        self.weights_hash = weights_hash(get_weights(model))
        self.warn, self.cached = OneWarning(), None
        # The weights' hash does not tell a plug-in's code.
        if config.cache_gigabytes and model.config.plugin is None:
            try:
                self.cached = cache_folder() / "descriptors"
            except (OSError, InputError) as error:
                self.warn(error)

    def encoder(self, mesh: Mesh | None = None) -> Encoder:
        """Images [b, h, w, 3] → descriptors [b, d], by the engine that was asked for."""
        if self.config.engine == "jax":
            return compile_encoder(self.model, mesh)
        run = EngineModel(self.model, self.config.engine)
        return lambda images: run(normalize(images) if images.dtype == np.uint8 else images)

    def how(self) -> dict[str, Any]:
        """What descriptors depend on besides weights and images, as plain JSON values."""
        library = import_module(self.config.engine.partition("-")[0])
        return {
            "model": self.model.config.to_dict(),
            "engine": [self.config.engine, library.__version__],
            "storage": self.config.storage,
            "batch_size": self.batch_size,
            "devices": [device.device_kind for device in self.mesh.devices.flat],
            "mixvpr_jax": code_hash(),
            "pillow": PIL.__version__,
        }

    def describe(self, photos: Mapping[str, Sequence[AnyPath]]) -> list[Described]:
        """Descriptors of sets of image files; errors give a set's name."""
        total = sum(map(len, photos.values()))
        # disable=None: a bar on terminals alone, so that an error is the one line of a log.
        hidden = None if is_main_process() else True
        with tqdm(total=total, unit="image", desc="descriptors", disable=hidden) as progress:
            return [self._describe(*named, progress.update) for named in photos.items()]

    def _describe(
        self, what: str, paths: Sequence[AnyPath], on_progress: Callable[[int], object]
    ) -> Described:
        """Descriptors of image files, those that are known from the cache."""
        cache = None
        if self.cached is not None:
            key = content_key(self.weights_hash, paths, self.how())
            cache = DescriptorCache(self.cached / key, self.warn)
        described = describe_images(
            self.encode,
            self.preprocess,
            paths,
            batch_size=self.batch_size,
            batch_multiple=self.mesh.size,
            num_workers=self.config.num_workers,
            storage=self.config.storage,
            skip_unreadable=self.config.skip_unreadable,
            cache=cache,
            temporary=self.temporary,
            on_progress=on_progress,
        )
        if not described.readable.any():
            raise InputError(
                f"{what}: expected at least one readable image, found none among {len(paths):,}, "
                f"the first of them: {described.reasons[0]}"
            )
        return described

    def prune(self) -> None:
        """Keeps the cache within its limit."""
        if self.cached is not None:
            try:
                prune(self.cached, 1e9 * self.config.cache_gigabytes)
            except OSError as error:
                self.warn(error)
