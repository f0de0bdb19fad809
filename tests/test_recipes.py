"""The shipped recipes, setting by setting: a changed default shows in its golden listing."""

import pytest
from golden.recipes import LISTINGS, listing

from mixvpr_jax.training.recipes import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_what_its_listing_says(name):
    """After a change that is meant: `python tests/golden/recipes.py`."""
    assert listing(load_recipe(name)[0]) == (LISTINGS / f"{name}.txt").read_text()


def test_each_listing_has_its_recipe():
    assert {path.stem for path in LISTINGS.iterdir()} == set(list_recipes())
