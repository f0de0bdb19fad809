"""Draws a town as two labelled folders: python -m mixvpr_jax.data.draw FOLDER."""

from __future__ import annotations

from pathlib import Path

import tyro

from mixvpr_jax.data.synthetic import CityConfig, write_evaluation_folders
from mixvpr_jax.errors import run_command


def draw(
    folder: tyro.conf.Positional[Path],
    city: tyro.conf.OmitArgPrefixes[CityConfig] = CityConfig(),  # noqa: B008 (it is frozen)
    queries_per_place: int = 1,
    overwrite: bool = False,
) -> None:
    """Draws a town as two labelled folders, database and queries.

    Args:
        folder: Where they go.
        city: What to draw.
        queries_per_place: How many of each place's views, its last, are queries.
        overwrite: Replace the pictures of an earlier call.
    """
    write_evaluation_folders(city, folder, queries_per_place=queries_per_place, overwrite=overwrite)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(draw))
