"""A model as one compiled program; one by one, its operations take three times as long."""

from flax import nnx


@nnx.jit
def describe(model, images):
    """What a model gives; in training mode its statistics move."""
    return model(images)
