"""The short form of the campaign: faults that no other test tries, once each."""

from random import Random

import pytest
from bench import Bench
from campaign import try_fault
from runs import uninterrupted

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["broken_image", "stalled_worker", "clock_set_back"])
def test_a_run_outlives(name, town, tmp_path, tmp_path_factory):
    whole, seconds = uninterrupted(1, town, tmp_path_factory)
    # Half of them, as programs were compiled.
    bench = Bench(town, tmp_path / "run", Random(name), seconds / 2, devices=1)
    bench.expected = whole / "model" / "model.safetensors"
    print(name, try_fault(name, bench))
