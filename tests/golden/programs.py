"""What XLA makes of the main programs on CPUs, in figures: `python tests/golden/programs.py`.

Nothing is timed and nothing is run. The step's images are small, as its operations are the same.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.hlo import collective_counts, instructions
from benchmarks.programs import describing, searching, training
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.training.recipes import load_recipe

FIGURES = Path(__file__).with_suffix(".json")
PROGRAMS = ("describe 1 image", "step on 8 devices", "search")


def lowered(name: str) -> Any:
    """A program of `PROGRAMS`."""
    config, _ = load_recipe("resnet50_mixvpr_4096")
    model = replace(config.model, dtype="float32")
    if name.startswith("describe"):
        return describing(model.architecture, data_mesh(jax.devices()[:1]), 1)
    if name == "search":
        return searching(data_mesh(jax.devices()[:1]))
    model = replace(model, image_size=(64, 64), layers_to_crop=(3, 4))
    frozen = replace(config.optimizer, layers_to_freeze=1)
    config = replace(config, model=model, optimizer=frozen)
    return training(config, data_mesh(), 8)[0]


def figures(program: Any) -> dict[str, int]:
    """Of the optimized program: the same on any processor with AVX2."""
    # LLVM, which follows, is left out; tests compile by other emitters (tests/compiled.py).
    options = {"xla_cpu_use_fusion_emitters": True, "xla_cpu_max_isa": "AVX2"}
    compiled = program.compile({"xla_backend_optimization_level": 0, **options})
    text, cost = compiled.as_text(), compiled.cost_analysis() or {}
    operations = Counter(instruction.operation for instruction in instructions(text))
    collectives, in_turn = collective_counts(text)
    return {
        "flops": int(cost["flops"]),
        "bytes": int(cost["bytes accessed"]),
        "temporary bytes": compiled.memory_analysis().temp_size_in_bytes,
        **{operation: operations[operation] for operation in ("fusion", "dot", "copy")},
        "collectives": collectives,
        "collectives in turn": in_turn,
    }


def main() -> None:
    """Writes them all."""
    jax.config.update("jax_num_cpu_devices", 8)
    found = {name: figures(lowered(name)) for name in PROGRAMS}
    FIGURES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
