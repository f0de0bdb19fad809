"""Drives a loop through the generated town and tells when it is back: loop closure, calibrated.

    make demo
    python -m examples.loop_closure --weights out/demo/run

A drive passes all places of a town and then the first half of them again, in other light. Drives
through other towns, whose places are known, give the threshold: the lowest score at which all of
their matches are right. Your own robot takes frames of a camera and positions of a calibration run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro

from demo.town import CityConfig, draw_view
from mixvpr_jax import Match, PlaceMap, from_pretrained
from mixvpr_jax.errors import InputError, run_command
from mixvpr_jax.evaluation.confidence import threshold_at
from mixvpr_jax.models.config import Engine

SKIP_RECENT = 10


def loop_closure(
    weights: str,
    town: tyro.conf.OmitArgPrefixes[CityConfig] = CityConfig(  # noqa: B008 (it is frozen)
        num_places=30, images_per_place=2, image_size=(120, 160), difficulty=0.25
    ),
    calibration_drives: int = 4,
    sequence_length: int = 3,
    engine: Engine = "onnxruntime",
    output: Path = Path("out/loop_closure.safetensors"),
) -> None:
    """Calibrates the threshold, drives, and says which loops were found.

    Args:
        weights: A model's folder or a released name.
        town: The town of the drive; those of the calibration have the seeds that follow.
        calibration_drives: How many towns give the threshold.
        sequence_length: How many consecutive frames must agree.
        engine: What computes the descriptors.
        output: Where the map of the drive is saved.
    """
    if town.num_places < 2 * SKIP_RECENT:
        raise InputError(f"num_places: expected at least {2 * SKIP_RECENT}, to drive a loop")
    model, preprocess = from_pretrained(weights, engine=engine)

    def drive(seed: int, threshold: float | None) -> Iterator[tuple[int, int | None, Match | None]]:
        """The place of each frame, that of its match, and the match."""
        place_map = PlaceMap(
            model, skip_recent=SKIP_RECENT, sequence_length=sequence_length, threshold=threshold
        )
        config = CityConfig(**{**vars(town), "seed": seed})
        places = [*range(town.num_places), *range(town.num_places // 2)]
        for frame, place in enumerate(places):
            photo = draw_view(config, place, view=frame // town.num_places)
            descriptor = np.asarray(model(preprocess([photo])))
            match = next(iter(place_map.locate(descriptor)), None)
            place_map.add(descriptor, f"place {place}")
            yield place, None if match is None else places[match.frame], match
        place_map.save(output)

    calibration = [
        (match.score, matched == place, frame >= town.num_places)
        for number in range(calibration_drives)
        for frame, (place, matched, match) in enumerate(drive(town.seed + 1 + number, None))
        if match is not None
    ]
    scores, right, is_back = map(np.array, zip(*calibration, strict=True))
    threshold = threshold_at(1.0, scores, right, int(is_back.sum()))
    if threshold is None:
        raise InputError(f"{weights}: expected a model that finds loops; train it longer")
    print(
        f"calibration: of {len(scores)} frames, {threshold.num_accepted} reach a score of "
        f"{threshold.score:.3f}, all of them right: {threshold.recall:.0%} of the loops"
    )
    found = wrong = 0
    for frame, (place, matched, match) in enumerate(drive(town.seed, threshold.score)):
        if match is not None and match.accepted:
            found, wrong = found + (matched == place), wrong + (matched != place)
            print(f"frame {frame}: back at {match.label}, score {match.score:.3f}")
    print(f"found {found} of {town.num_places // 2} loop frames, {wrong} wrong; map: {output}")


if __name__ == "__main__":
    run_command(lambda: tyro.cli(loop_closure))
