"""What the compilers of TPU and H100 make of the main programs: python benchmarks/compiled.py.

Neither device is needed, and nothing is timed: a program's operations, the bytes that they read and
write, its memory and its collectives are the same on every machine. Each compiler has an
environment of its own below out/compilers, which `--install` makes (TPU 1 GB, CUDA 6 GB).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from accelerators import ACCELERATORS  # noqa: E402
from hlo import bytes_by_class, collective_counts, overlapping  # noqa: E402

ENVIRONMENTS = ROOT / "out" / "compilers"
Target = Literal["v5e", "v5p", "v6e", "h100"]
Program = Literal["describe", "step", "search"]
TOPOLOGIES = {
    "v5e": {8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16"},
    "v5p": {8: "v5p:2x2x2", 64: "v5p:4x4x4", 256: "v5p:4x8x8"},
    "v6e": {8: "v6e:2x4", 64: "v6e:8x8", 256: "v6e:16x16"},
}
IMAGES = 480
# What the compiler asks a driver for; jax issue 23971 has the rest.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
SETTINGS = {
    "cuda": {
        "CUDA_VISIBLE_DEVICES": "-1",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
    },
    "tpu": {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    },
}


def main(
    targets: tuple[Target, ...] = ("v5e", "v5p", "v6e", "h100"),
    programs: tuple[Program, ...] = ("describe", "step", "search"),
    devices: tuple[int, ...] = (1, 8, 64, 256),
    install: bool = False,
    output: Path = ROOT / "benchmarks" / "compiled.json",
) -> None:
    """Compiles, prints a table, and writes it as JSON and Markdown: an hour on two cores.

    Args:
        targets: For which accelerators.
        programs: Describing 1 and 256 images, the training step of 120x4, a search.
        devices: How many share the step; of h100, those of one host.
        install: Makes the compilers' environments first.
        output: The JSON file; the Markdown lies next to it.
    """
    if install:
        for kind in {_environment(target) for target in targets}:
            _install(kind)
    rows: list[dict[str, Any]] = []
    lines = [f"| {' | '.join(TITLES)} |", f"|{' --- |' * len(TITLES)}"]
    print(*lines, sep="\n")
    for target in targets:
        for program in programs:
            sizes = {"describe": (1, 256), "step": devices, "search": (1,)}[program]
            for size in sizes:
                if target == "h100" and size > 8 and program == "step":
                    continue
                rows.append(in_environment(target, program, size))
                lines.append(_line(rows[-1]))
                print(lines[-1], flush=True)
                output.write_text(json.dumps(rows, indent=1) + "\n")
                output.with_suffix(".md").write_text(HEAD + "\n".join(lines) + "\n")


HEAD = """# The programs of TPU and H100

Written by `python benchmarks/compiled.py`. GPUs' compilers count no operations. HBM is the device's
memory: operands and results of each operation that lie there. "Accessed" is the compiler's count:
on TPUs it includes on-chip memory, and the whole of a map for each slice that is fetched there.

"""
TITLES = (
    "device",
    "program",
    "GFLOP",
    "GB accessed",
    "GB of HBM",
    "of which products, reductions, copies, the rest",
    "temporary, GB",
    "collectives, of which in turn, beside products",
    "ms by FLOP",
    "ms by bytes",
)


def _line(row: dict[str, Any]) -> str:
    """A row of the table; GPUs' compilers count no operations."""
    if "failed" in row:
        return f"| {row['target']} | {row['name']} | {row['failed']} |{' |' * (len(TITLES) - 3)}"
    published = ACCELERATORS[row["target"]]
    work, classes = row["flops"], row["bytes_by_class"]
    moved = sum(classes.values())
    shown = [classes.get(name, 0) for name in ("products", "reductions", "copies")]
    parts = [f"{value / 1e9:.1f}" for value in (*shown, moved - sum(shown))]
    counts = row["collectives"], row["in_turn"], row["overlapping"]
    cells = (
        row["target"],
        row["name"],
        f"{work / 1e9:,.0f}" if work else "",
        f"{row['bytes'] / 1e9:.1f}",
        f"{moved / 1e9:.1f}",
        ", ".join(parts),
        f"{row['temporary'] / 1e9:.1f} of {published.memory / 1e9:.0f}",
        ", ".join(map(str, counts)) if row["collectives"] else "",
        f"{1e3 * work / published.bfloat16:.1f}" if work else "",
        f"{1e3 * moved / published.bandwidth:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _environment(target: Target) -> str:
    return "cuda" if target == "h100" else "tpu"


def _install(kind: str) -> None:
    """An environment with the compiler, and with what the project itself needs."""
    folder = ENVIRONMENTS / kind
    extra = {"cuda": "jax[cuda12]", "tpu": "jax[tpu]"}[kind]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "pip", "install", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, extra, f"{ROOT}[train]"], check=True)


def in_environment(
    target: Target, program: Program, size: int, model: str = "resnet50_mixvpr_4096"
) -> dict[str, Any]:
    """What one program of a model compiles to, by a process of the compiler's environment."""
    kind = _environment(target)
    python = ENVIRONMENTS / kind / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"{python}: expected the compiler's environment, found none; add --install"
        )
    command = [python, __file__, "--one", target, program, str(size), model]
    environment = {**os.environ, **SETTINGS[kind], "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:  # the compiler's own fault, or ours
        failed = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return {"target": target, "name": _name(program, size), "failed": failed[0][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def _name(program: Program, size: int) -> str:
    one = "" if size == 1 else "s"
    return {
        "describe": f"describe, {size} image{one}",
        "step": f"step, {IMAGES} images, {size} device{one}",
        "search": "search, 512 queries in 131,072 x 4096",
    }[program]


def compile_one(target: Target, program: Program, size: int, model: str) -> dict[str, Any]:
    """Compiles a program in this process, and says what it consists of."""
    import jax
    from programs import describing, model_config, searching, training

    from mixvpr_jax.training.recipes import load_recipe

    mesh = jax.sharding.Mesh(_topology(target, size if program == "step" else 1), ("data",))
    if program == "describe":
        lowered = describing(model_config(model, "bfloat16"), mesh, size)
    elif program == "step":
        lowered, _ = training(load_recipe(model)[0], mesh, IMAGES)
    else:
        lowered = searching(mesh)
    compiled = lowered.compile()
    text, cost = compiled.as_text(), compiled.cost_analysis() or {}
    by_class: Counter[str] = bytes_by_class(text)
    collectives, in_turn = collective_counts(text)
    return {
        "target": target,
        "name": _name(program, size),
        "flops": cost.get("flops"),
        "bytes": cost.get("bytes accessed") or by_class.total(),
        "bytes_by_class": by_class,
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "collectives": collectives,
        "in_turn": in_turn,
        "overlapping": overlapping(text),
    }


def _topology(target: Target, count: int) -> Any:
    """Descriptions of devices that are not there."""
    import numpy as np
    from jax.experimental import topologies

    if target != "h100":
        name = TOPOLOGIES[target][max(count, 8)]
        return np.array(topologies.get_topology_desc(name, "tpu").devices[:count])
    from jax._src import xla_bridge

    known = xla_bridge.canonicalize_platform

    def canonicalize(platform: str) -> str:
        try:
            return known(platform)
        except RuntimeError:  # JAX looks for a device on the way
            return "cuda"

    xla_bridge.canonicalize_platform = canonicalize
    options = {"topology": f"1x1x{count}", "target_config": H100}
    return np.array(topologies.get_topology_desc("h100", "cuda", **options).devices[:count])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        of_target, of_program, images, of_model = sys.argv[2:]
        print(json.dumps(compile_one(of_target, of_program, int(images), of_model)))  # pyright: ignore[reportArgumentType]
    else:
        import tyro

        tyro.cli(main)
