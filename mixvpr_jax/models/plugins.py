"""Aggregators and backbones of others: known once their module is imported, saved by its path.

A model's config.json may name any module, and importing one runs it. So nothing here imports what a
file names: a module must be imported already, or be named by the user in MIXVPR_PLUGINS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, TypeVar, dataclass_transform

from mixvpr_jax.errors import InputError, text_of

TRUSTED = "MIXVPR_PLUGINS"
T = TypeVar("T", bound="Aggregator")
B = TypeVar("B", bound="Backbone")
K = TypeVar("K", bound="Aggregator | Backbone")


@dataclass(frozen=True)
class Aggregator:
    """The settings of an aggregator of one's own; subclasses add fields and `build`."""

    def build(self, channels: int, size: tuple[int, int], *, dtype: Any, rngs: Any) -> Any:
        """A `flax.nnx.Module`: feature maps [b, h, w, channels] → [b, d], of any norm.

        Args:
            channels: Of the feature map.
            size: Its height and width for images of the model's `image_size`.
            dtype: The model's, as `mixvpr_jax.models.layers` take it ("tensorfloat32" among them).
            rngs: Where initial weights come from.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def descriptor_dim(self, channels: int, size: tuple[int, int]) -> int:
        """Length of a descriptor: what a traced `build` gives."""
        import jax
        import jax.numpy as jnp
        from flax import nnx

        def describe() -> Any:
            module = built(self, channels, size, dtype="float32", rngs=nnx.Rngs(0))
            return module(jnp.zeros((1, *size, channels)))

        shape = jax.eval_shape(describe).shape
        if len(shape) != 2:
            raise InputError(
                f"{import_path(type(self))}: expected an array [b, d], found {list(shape)}"
            )
        return shape[1]


class Backbone:
    """A backbone of one's own; subclasses say what its feature map is, and add `build`.

    Attributes:
        channels: Of the feature map.
        stride: Pixels of the image per position of the feature map.
    """

    channels: int
    stride: int

    def build(self, *, dtype: Any, rngs: Any) -> Any:
        """A `flax.nnx.Module`: normalised images [b, h, w, 3] → feature maps [b, h2, w2, channels].

        Height and width are those of the image divided by the stride, rounded up.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")


def built(plugin: Aggregator | Backbone, *given: Any, dtype: Any, rngs: Any) -> Any:
    """What a plug-in's `build` gives, in evaluation mode.

    Raises:
        InputError: Its state is not all of `nnx.Param` and `nnx.BatchStat`: nothing else is saved.
    """
    from flax import nnx

    module = plugin.build(*given, dtype=dtype, rngs=rngs)
    if isinstance(module, nnx.Module):
        module.eval()
        _, _, others = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)
        leaves = nnx.to_flat_state(others)
        if found := {f"{type(x).__name__} {'.'.join(map(str, path))}" for path, x in leaves}:
            raise InputError(
                f"{import_path(type(plugin))}: expected state of nnx.Param and nnx.BatchStat "
                f"alone, as nothing else is saved, found {', '.join(sorted(found))}; leave out "
                "dropout and caches, and compute constant arrays in __call__"
            )
    return module


_KNOWN: dict[str, type[Aggregator | Backbone]] = {}


@dataclass_transform(frozen_default=True)
def register_aggregator(cls: type[T]) -> type[T]:
    """Makes a subclass of `Aggregator` a frozen dataclass that models and recipes may use.

    Examples:
        >>> @register_aggregator
        ... class Mean(Aggregator):
        ...     def build(self, channels, size, *, dtype, rngs):
        ...         return lambda features: features.mean((1, 2))
    """
    _require(cls, Aggregator)
    known = dataclass(frozen=True)(cls)
    if any(field.name == "name" for field in fields(known)):
        raise InputError(
            f"{import_path(cls)}: expected no setting called `name`, which is the plug-in's own in "
            "config.json; rename it"
        )
    _KNOWN[import_path(known)] = known
    return known


def register_backbone(cls: type[B]) -> type[B]:
    """Makes a subclass of `Backbone` known as `arch="module:Class"`.

    Examples:
        >>> @register_backbone
        ... class Patches(Backbone):
        ...     channels, stride = 64, 16
        ...
        ...     def build(self, *, dtype, rngs):
        ...         return nnx.Conv(3, 64, (16, 16), strides=16, rngs=rngs)
    """
    _require(cls, Backbone)
    _KNOWN[import_path(cls)] = cls
    return cls


def _require(cls: type, base: type) -> None:
    if not issubclass(cls, base) or "<locals>" in cls.__qualname__:
        raise InputError(
            f"{import_path(cls)}: expected a subclass of mixvpr_jax.{base.__name__} at the top "
            "level of a module"
        )


def import_path(cls: type) -> str:
    """The name under which a class is saved: package.module:Class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def saved_name(cls: type) -> str:
    """The same; InputError for a class of a script or notebook, which nobody could import."""
    if cls.__module__ == "__main__":
        raise InputError(
            f"{cls.__qualname__}: expected a plug-in of a module that can be imported, found one "
            "of a script or notebook; move it into a file of its own and import it"
        )
    return import_path(cls)


def find_plugin(name: str, base: type[K]) -> type[K]:
    """A registered subclass of `Aggregator` or `Backbone`, by its import path.

    Raises:
        InputError: Its module was not imported, and MIXVPR_PLUGINS names none that registers it.
    """
    for module in filter(None, os.environ.get(TRUSTED, "").split(",")):
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(
                f"{TRUSTED}: expected modules that can be imported, found {module} "
                f"({text_of(error)}); install it, or put its folder on PYTHONPATH"
            ) from error
    found = _KNOWN.get(name)
    if found is None or not issubclass(found, base):
        what, module = "arch" if base is Backbone else "aggregator", name.partition(":")[0]
        raise InputError(
            f"{what}: expected the plug-in {name} to be registered, found it unknown; if you "
            f"trust its code, import {module} first or set {TRUSTED}={module} (install it, or put "
            "its folder on PYTHONPATH)"
        )
    return found
