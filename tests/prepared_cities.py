"""Three small cities of GSV-Cities in a folder, and as ArrayRecord."""

import sys
from pathlib import Path

import pytest
from tables import write_city

from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.prepare import prepare_gsv_cities
from mixvpr_jax.data.sources import open_source

ROOT = Path(__file__).parent.parent
VERSION = "gsv_cities/1.0.0"


@pytest.fixture(scope="module")
def cities_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_city(root, "Rome", places=5)
    write_city(root, "Zurich", places=2)
    return write_city(root, "Bangkok", places=4)


@pytest.fixture(scope="module")
def prepared(cities_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared")
    return output, prepare_gsv_cities(cities_folder, output)


def open_both(folder, output, cities=("Rome", "Bangkok"), **options):
    configs = [DataConfig(root, cities, 2, 2, 2, **options) for root in (folder, output)]
    return configs, [open_source(config) for config in configs]


def prepare_command(folder, output):
    options = ["--data-dir", str(folder), "--output", str(output)]
    return [sys.executable, "-m", "mixvpr_jax.data.prepare", "gsv_cities", *options]
