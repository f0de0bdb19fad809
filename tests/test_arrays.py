"""What the public API takes as arrays: what is none ends in one line, wherever it is given."""

import jaxtyping
import numpy as np
import pytest
from torch_or_skip import torch

from mixvpr_jax import Index, InputError, PlaceMap, Preprocess

ROWS = np.eye(3, 8, dtype=np.float32)
TENSORS = {
    "that needs gradients": lambda array: torch.from_numpy(array).requires_grad_(),
    "bfloat16": lambda array: torch.from_numpy(array).bfloat16(),
    "on another device": lambda array: torch.from_numpy(array).to("meta"),
    "sparse": lambda array: torch.from_numpy(array).to_sparse(),
    "masked": lambda array: np.ma.masked_array(array, array > 0.5),
}
OTHERS = {
    "ragged": lambda array: [[1.0, 2.0], [3.0]],
    "dictionary": lambda array: {"descriptors": array},
    "text": lambda array: array.astype(str),
    "complex": lambda array: array + 1j,
    "time": lambda array: array.astype("M8[s]"),
}
TAKE_DESCRIPTORS = {
    "Index": lambda rows: Index(rows),
    "search": lambda rows: Index(ROWS).search(rows, 1),
    "add": lambda rows: PlaceMap().add(rows),
    "locate": lambda rows: PlaceMap().locate(rows),
}


@pytest.fixture(autouse=True)
def without_type_check():
    """That of the tests, so that the message is the one that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("kind", TENSORS)
def test_images(model, kind):
    images = np.full((1, *model.config.image_size, 3), 0.6, np.float32)
    for call in (model, Preprocess((32, 32))):
        with pytest.raises(InputError, match="expected an (array|image), found (Tensor: |masked)"):
            call(TENSORS[kind](images))


@pytest.mark.parametrize("kind", TENSORS | OTHERS)
@pytest.mark.parametrize("take", TAKE_DESCRIPTORS)
def test_descriptors(take, kind):
    with pytest.raises(InputError, match="expected .*, found "):
        TAKE_DESCRIPTORS[take]((TENSORS | OTHERS)[kind](ROWS[:1]))


@pytest.mark.filterwarnings("ignore:the matrix subclass", "ignore:__array__ implementation")
@pytest.mark.parametrize(
    "convert", [np.asmatrix, torch.from_numpy, np.ma.masked_array], ids=lambda one: one.__name__
)
def test_arrays_of_others(model, convert):
    images = np.full((1, *model.config.image_size, 3), 0.6, np.float32)
    if convert is not np.asmatrix:
        assert np.array_equal(model(convert(images)), model(images))
    for index, queries in ((Index(convert(ROWS)), ROWS), (Index(ROWS), convert(ROWS))):
        indices, distances = index.search(queries, 1)
        assert (indices.tolist(), distances.tolist()) == ([[0], [1], [2]], [[0.0]] * 3)
    place_map = PlaceMap()
    place_map.add(convert(ROWS[:1]))
    assert place_map.locate(convert(ROWS[:1]))[0].similarity == 1
