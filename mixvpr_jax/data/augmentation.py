"""RandAugment as official training draws it, and its operations by Pillow, on the host.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2019, with the fourteen operations, ranges and order of torchvision's RandAugment.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
NUM_SIGNED = OPERATIONS.index("Sharpness") + 1  # those before have two directions
MAX_MAGNITUDE = 30
ENHANCE = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}


def draw_operations(rng: np.random.Generator, num_images: int, num_ops: int) -> np.ndarray:
    """Which operations each image undergoes, one after another.

    Returns:
        int8 [num_images, num_ops]: indices into OPERATIONS, negative for the opposite direction.
    """
    drawn = rng.integers(len(OPERATIONS), size=(num_images, num_ops))
    signs = rng.integers(2, size=drawn.shape) * 2 - 1
    return np.where(drawn < NUM_SIGNED, drawn * signs, drawn).astype(np.int8)


def amount(name: str, magnitude: int, size: tuple[int, int]) -> float:
    """What a magnitude of 0 to 30 means to an operation.

    Returns:
        Shears as a tangent, translations in pixels of an image of this (height, width), rotation in
        degrees, enhancements as the change of their factor, Posterize in bits, Solarize as the grey
        level from which it inverts; 0 for the others.
    """
    part = magnitude / MAX_MAGNITUDE
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
        return 8 - round(4 * part)
    if name == "Solarize":
        return 255 - 255 * part
    return float(np.float32(full.get(name, 0.0) * part))


def inverse_affine(name: str, value: float, size: tuple[int, int]) -> tuple[float, ...]:
    """Where a geometric operation takes its pixels from: x' = a x + b y + c, y' = d x + e y + f.

    Of any other operation it is the identity. Shears fix the corner, rotations the centre.
    """
    if name == "ShearX":
        return (1, value, 0, 0, 1, 0)
    if name == "ShearY":
        return (1, 0, 0, value, 1, 0)
    if name == "TranslateX":
        return (1, 0, -int(value), 0, 1, 0)
    if name == "TranslateY":
        return (1, 0, 0, 0, 1, -int(value))
    if name == "Rotate":
        height, width = size
        cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
        x, y = width / 2, height / 2
        return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return (1, 0, 0, 0, 1, 0)


def apply_operation(image: Image.Image, operation: int, magnitude: int) -> Image.Image:
    """An RGB image after one operation, an index into OPERATIONS with its direction."""
    name, size = OPERATIONS[abs(operation)], (image.height, image.width)
    value = amount(name, magnitude, size)
    signed = math.copysign(value, operation)
    if name in ENHANCE:
        return ENHANCE[name](image).enhance(1 + signed)
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
    """An RGB image after its operations, one after another.

    Args:
        image: The image.
        operations: A row of `draw_operations`.
        magnitude: Their strength, 0 to 30.
    """
    for operation in operations.tolist():
        image = apply_operation(image, operation, magnitude)
    return image
