"""The whole model: backbone and aggregator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mixvpr_jax.checks import to_array
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import EFFICIENTNETS, RESNETS, SWINS, VITS
from mixvpr_jax.models.boq import BoQ
from mixvpr_jax.models.config import AGGREGATORS, MixVPRConfig, ModelConfig, SALADConfig
from mixvpr_jax.models.dinov2 import DINOv2
from mixvpr_jax.models.efficientnet import EfficientNet
from mixvpr_jax.models.layers import array_dtype, cast_in_place, l2_normalize, linear, param_dtype
from mixvpr_jax.models.mixvpr import MixVPR
from mixvpr_jax.models.normalization import fold_in_place
from mixvpr_jax.models.plugins import Aggregator, Backbone, built, find_plugin
from mixvpr_jax.models.pooling import ConvAP, CosPlace, GeM
from mixvpr_jax.models.resnet import ResNet
from mixvpr_jax.models.salad import SALAD
from mixvpr_jax.models.swin import Swin


class PluggedIn(nnx.Module):
    """An aggregator of others, whose output is scaled to unit norm: [b, h, w, c] → [b, d]."""

    def __init__(self, config: ModelConfig, plugin: Aggregator, *, rngs: nnx.Rngs) -> None:
        given = config.feature_channels, config.feature_size
        plugin.descriptor_dim(*given)  # or InputError
        self.module = built(plugin, *given, dtype=config.dtype, rngs=rngs)
        self.wide = param_dtype(config.dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        return l2_normalize(self.module(x).astype(self.wide))


class PluggedInBackbone(nnx.Module):
    """A backbone of others: normalised images [b, h, w, 3] → feature map [b, h2, w2, c]."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.module = built(find_plugin(config.arch, Backbone)(), dtype=config.dtype, rngs=rngs)
        image = jnp.zeros((1, *config.image_size, 3), array_dtype(config.dtype))
        found = jax.eval_shape(self.module, image).shape
        if found != (expected := (1, *config.feature_size, config.feature_channels)):
            raise InputError(
                f"{config.arch}: expected a feature map {list(expected)} of an image, by its "
                f"stride and channels, found {list(found)}"
            )

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        return self.module(images)


# By the tables of shapes that backbones' names are found in, and by the types of configurations.
_BACKBONES = ((RESNETS, ResNet), (VITS, DINOv2), (EFFICIENTNETS, EfficientNet), (SWINS, Swin))
_AGGREGATORS: dict[type, Callable[..., nnx.Module]] = {
    AGGREGATORS[kind.__name__]: kind for kind in (MixVPR, ConvAP, CosPlace, GeM, SALAD, BoQ)
}


class VPRModel(nnx.Module):
    """Normalised images [b, h, w, 3] → descriptors [b, d] of unit norm, float32.

    A bare backbone gives the feature map [b, h2, w2, c]. A new model is in evaluation mode;
    `model.train()` and `model.eval()` switch.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise InputError('dtype "float64": set jax_enable_x64 first (JAX_ENABLE_X64=1)')
        self.config = config
        kinds = (kind for shapes, kind in _BACKBONES if config.arch in shapes)
        self.backbone = next(kinds, PluggedInBackbone)(config, rngs=rngs)
        if config.aggregator is not None:
            aggregator = _AGGREGATORS.get(type(config.aggregator), PluggedIn)
            self.aggregator = aggregator(config, config.aggregator, rngs=rngs)
        if config.projection is not None:
            # In float32 whatever the model computes in: its bias cancels most of the product.
            wide, length = param_dtype(config.dtype), config.aggregator_dim
            assert length is not None
            self.projection = linear(length, config.projection, dtype=wide, rngs=rngs)

    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w 3"],
        valid: Bool[Array, " b"] | None = None,
    ) -> Float[Array, "b ..."]:
        """Computes descriptors.

        Args:
            images: Normalised images.
            valid: Marks images that are not padding; only they update batch_stats.

        Raises:
            InputError: Another layout, or a size whose feature map does not fit the aggregator;
                the line names the sizes that do.
        """
        check_images(self.config, images)
        if not isinstance(images, Array):
            images = to_array("images: expected an array", images)
        features, *token = self.features(images, valid)
        return self.head(features, *token) if self.config.aggregator is not None else features

    def features(
        self, images: Float[Array | np.ndarray, "b h w 3"], valid: Bool[Array, " b"] | None = None
    ) -> tuple[Array, ...]:
        """What the aggregator takes: maps [b, h, w, c], and for SALAD class tokens [b, c], too."""
        x = jnp.asarray(images, array_dtype(self.config.dtype))
        if isinstance(self.backbone, DINOv2) and isinstance(self.config.aggregator, SALADConfig):
            return self.backbone.tokens(x)
        if isinstance(self.backbone, ResNet | EfficientNet):
            return (self.backbone(x, valid),)
        return (self.backbone(x),)  # in which padding changes nothing

    def head(self, *features: Float[Array, "b ... c"]) -> Float[Array, "b d"]:
        """The descriptors of what `features` gives."""
        descriptors = self.aggregator(*features)
        if self.config.projection is None:
            return descriptors
        return l2_normalize(self.projection(descriptors))


def create_model(config: ModelConfig, *, seed: int | np.integer = 0) -> VPRModel:
    """A model with the official initialisation; a seed gives the same weights on every platform.

    Raises:
        InputError: `config` is no ModelConfig, or `seed` no integer of 64 bits.
    """
    if not isinstance(config, ModelConfig):
        raise InputError(f"config: expected a ModelConfig, found {config!r:.100}")
    if not (isinstance(seed, int | np.integer) and -(2**63) <= seed < 2**63):
        raise InputError(f"seed: expected an integer of 64 bits, found {seed!r:.40}")
    high, low = divmod(int(seed) % 2**64, 2**32)
    key = jax.random.key(low)  # which would ignore the other bits without a word
    return VPRModel(config, rngs=nnx.Rngs(jax.random.fold_in(key, high) if high else key))


class _SameKey(nnx.Rngs):
    """The same key for all weights, where none is drawn.

    Flax counts keys, which takes half of the time of tracing a ResNet-50, and two thirds of that of
    a ViT-B: 0.3 and 1.2 s.
    """

    def __init__(self) -> None:
        pass

    def params(self) -> Array:
        return jax.random.key(0)


def abstract_model(config: ModelConfig) -> VPRModel:
    """A model whose weights are shapes and dtypes; drawing them compiles for seconds."""

    def build() -> VPRModel:
        # Plug-ins may ask for more than `params`.
        return VPRModel(config, rngs=nnx.Rngs(0) if config.plugin else _SameKey())

    return nnx.eval_shape(build)


def empty_model(config: ModelConfig) -> VPRModel:
    """A model of zeros, to be filled from a checkpoint."""
    graph, state = nnx.split(abstract_model(config))
    zeros = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), state)
    return nnx.merge(graph, zeros)


def fold(model: VPRModel, platform: str | None = None) -> VPRModel:
    """A copy for inference, on a platform or any, whose convolutions hold what their BatchNorms do.

    The backbone's weights are of the model's dtype. It shares all others with the model, which
    stays as it is.
    """
    model = nnx.clone(model)
    if isinstance(model.backbone, ResNet | EfficientNet):
        # Smaller images do not pay for the seconds that compiling `WinogradConv` takes.
        is_large = min(model.config.image_size) >= 128
        fold_in_place(model.backbone, platform if is_large else None)
    elif isinstance(model.backbone, DINOv2 | Swin):
        cast_in_place(model.backbone)
    return model


def to_linen(
    model: VPRModel, *, train: bool = False
) -> tuple[flax.linen.Module, dict[str, dict[str, Any]]]:
    """Converts a model to a Linen module and its variables.

    Args:
        model: The model; its weights are shared, not copied.
        train: Whether the module normalises by the batch and updates `batch_stats`; apply it with
            `mutable=["batch_stats"]`.

    Returns:
        The module and {"params": …, "batch_stats": …}, nested dictionaries of plain arrays.

    Examples:
        >>> model, preprocess = from_pretrained("resnet50_4096")
        >>> module, variables = to_linen(model)
        >>> descriptors = module.apply(variables, preprocess(["street.jpg"]))
    """

    def build(config: ModelConfig, rngs: nnx.Rngs) -> VPRModel:
        fresh = VPRModel(config, rngs=rngs)
        fresh.train() if train else fresh.eval()
        return fresh

    require_model(model)
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    variables = {name: nnx.to_pure_dict(nnx.state(model, kind)) for name, kind in kinds.items()}
    return nnx.bridge.to_linen(build, model.config), variables


def require_model(model: object) -> None:
    """Raises InputError for anything but a VPRModel, such as one that an engine runs."""
    if not isinstance(model, VPRModel):
        raise InputError(
            "model: expected a VPRModel, as from_pretrained(…) without an engine and create_model "
            f"give it, found {type(model).__name__}"
        )


def require_evaluation(model: VPRModel) -> None:
    """Raises InputError if a BatchNorm normalises by the batch."""
    require_model(model)
    modules = (module for _, module in nnx.iter_modules(model))
    if any(getattr(module, "use_running_average", None) is False for module in modules):
        raise InputError("model: expected evaluation mode, found training mode; call model.eval()")


def check_images(config: ModelConfig, images: Any) -> None:
    """Raises InputError unless images are an array that fits; its batch may be symbolic."""
    if not hasattr(images, "dtype"):
        found = type(images).__name__
        raise InputError(f"images: expected an array, found {found}; use `preprocess`")
    shape, dtype = images.shape, str(images.dtype)
    if len(shape) != 4 or shape[3] != 3:
        raise InputError(f"images: expected shape [batch, height, width, 3], found {list(shape)}")
    if isinstance(shape[0], int) and not shape[0]:
        raise InputError("images: expected at least one, found none")
    if "float" not in dtype:
        raise InputError(f"images: expected normalised floats, found {dtype}; use `preprocess`")
    if isinstance(shape[1], int) and isinstance(shape[2], int):
        config.check_size(shape[1], shape[2])
    if not isinstance(config.aggregator, MixVPRConfig):
        return
    fits = [range((n - 1) * config.stride + 1, n * config.stride + 1) for n in config.feature_size]
    if any(size not in sizes for size, sizes in zip(shape[1:3], fits, strict=True)):
        heights, widths = (f"{sizes[0]} to {sizes[-1]}" for sizes in fits)
        rows, columns = config.feature_size
        raise InputError(
            f"images: expected height {heights} and width {widths} pixels (a feature map of "
            f"{rows}x{columns}), found {shape[1]}x{shape[2]}"
        )
