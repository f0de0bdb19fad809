"""The short form of the campaign: faults that no other test tries, once each."""

from random import Random

import pytest
from bench import Bench
from campaign import draw, try_fault, unharmed
from shared import once

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):

    def run(folder):
        town = draw(folder / "town")
        return town, *unharmed(town, folder)

    return once(tmp_path_factory, "whole", run)


@pytest.mark.parametrize(
    "name", ["damaged_checkpoint", "broken_image", "stalled_worker", "clock_set_back"]
)
def test_a_run_outlives(name, whole, tmp_path):
    town, seconds, model = whole
    outcome = try_fault(name, Bench(town, tmp_path / "run", Random(name), seconds, expected=model))
    print(name, outcome)
