"""RandAugment as official training draws it, and its operations by Pillow, on the host.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2019, with the fourteen operations, ranges and order of torchvision's RandAugment.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mixvpr_jax.data.config import MAX_MAGNITUDE

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color",
    "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
NUM_SIGNED = OPERATIONS.index("Sharpness") + 1  # those before have two directions
ENHANCE = ("Brightness", "Color", "Contrast", "Sharpness")  # by Pillow's classes of these names


def draw_operations(rng: np.random.Generator, num_images: int, num_ops: int) -> np.ndarray:
    """int8 [num_images, num_ops]: indices into OPERATIONS, negative for the opposite direction."""
    drawn = rng.integers(len(OPERATIONS), size=(num_images, num_ops))
    signs = rng.integers(2, size=drawn.shape) * 2 - 1
    return np.where(drawn < NUM_SIGNED, drawn * signs, drawn).astype(np.int8)


def amount(name: str, magnitude: int, size: tuple[int, int]) -> float:
    """What a magnitude of 0 to 30 means to an operation on an image of this (height, width).

    Returns:
        Shear: tangent; translation: pixels; rotation: degrees; enhancement: change of the factor;
        Posterize: bits; Solarize: the grey level from which it inverts; otherwise 0.
    """
    height, width = size
    full = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 150 / 331 * width,
        "TranslateY": 150 / 331 * height,
        "Rotate": 30.0,
        **dict.fromkeys(ENHANCE, 0.9),
    }
    if name == "Posterize":
        return 8 - round(4 * magnitude / MAX_MAGNITUDE)
    if name == "Solarize":
        return 255 - 255 * magnitude / MAX_MAGNITUDE
    return _share(full.get(name, 0.0), magnitude)


def _share(full: float, magnitude: int) -> float:
    """torch.linspace(0, full, 31)[magnitude], rounded to float32 as there: from the nearer end."""
    end = float(np.float32(full))
    step = float(np.float32(end / MAX_MAGNITUDE))
    back = MAX_MAGNITUDE - magnitude
    return float(np.float32(step * magnitude if magnitude < back else end - step * back))


def inverse_affine(name: str, value: float, size: tuple[int, int]) -> tuple[float, ...]:
    """The source of each pixel, x' = a x + b y + c and y' = d x + e y + f; may be the identity.

    Shears fix the corner, rotations the centre.
    """
    angle = math.radians(value % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)  # as Image.rotate does
    y, x = size[0] / 2, size[1] / 2
    matrices = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, -int(value), 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -int(value)),
        "Rotate": (cos, -sin, x + (sin * y - cos * x), sin, cos, y - (sin * x + cos * y)),
    }
    return matrices.get(name, (1, 0, 0, 0, 1, 0))


def apply_operation(image: Image.Image, operation: int, magnitude: int) -> Image.Image:
    """An RGB image after one operation, an index into OPERATIONS with its direction."""
    name, size = OPERATIONS[abs(operation)], (image.height, image.width)
    value = amount(name, magnitude, size)
    signed = math.copysign(value, operation)
    if name in ENHANCE:
        return getattr(ImageEnhance, name)(image).enhance(1 + signed)
    if name == "Posterize":
        return ImageOps.posterize(image, int(value))
    if name == "Solarize":
        return ImageOps.solarize(image, math.ceil(value))  # the first level not below
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Identity":
        return image
    matrix = inverse_affine(name, signed, size)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0)
    )


def rand_augment(image: Image.Image, operations: np.ndarray, magnitude: int) -> Image.Image:
    """An RGB image after a row of `draw_operations`, of strength 0 to 30."""
    for operation in operations.tolist():
        image = apply_operation(image, operation, magnitude)
    return image
