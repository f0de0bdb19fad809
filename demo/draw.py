"""Draws a town, to train on or to evaluate on: python -m demo.draw FOLDER."""

from __future__ import annotations

from pathlib import Path

from mixvpr_jax.errors import run_command, starting

with starting(__name__):
    import tyro

    from demo.town import CityConfig, write_evaluation_folders, write_gsv_cities
    from mixvpr_jax.workers import num_processors


def draw(
    folder: tyro.conf.Positional[Path],
    city: tyro.conf.OmitArgPrefixes[CityConfig] = CityConfig(),  # noqa: B008 (it is frozen)
    cities: tuple[str, ...] = (),
    queries_per_place: int = 1,
    overwrite: bool = False,
    workers: int = num_processors(),
) -> None:
    """Draws a town as two labelled folders, database and queries, or cities to train on.

    Args:
        folder: Where they go.
        city: What to draw.
        cities: Names of cities to draw in the layout of GSV-Cities, instead of the two folders.
        queries_per_place: How many of each place's views, its last, are queries.
        overwrite: Replace the photos that an earlier call drew; no others are touched.
        workers: Processes that draw.
    """
    how = {"overwrite": overwrite, "workers": workers}
    if cities:
        write_gsv_cities(city, folder, cities=cities, **how)
    else:
        write_evaluation_folders(city, folder, queries_per_place=queries_per_place, **how)


if __name__ == "__main__":
    run_command(lambda: tyro.cli(draw))
