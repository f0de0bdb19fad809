"""The compiled step: what devices say to each other, what each computes, how often it compiles."""

import json
import re
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from unittest.mock import MagicMock, create_autospec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.programs import FIGURES, PROGRAMS, figures, lowered
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from runs import entries, tiny_config
from trajectory import LOSS_AND_MINER

from benchmarks.hlo import bytes_by_class, collective_counts, collectives, overlapping, squeezed
from mixvpr_jax.distributed import AXIS, data_mesh
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.models.config import GeMConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.models.vpr import abstract_model, create_model
from mixvpr_jax.training import loop
from mixvpr_jax.training.config import OptimizerConfig, ValidationConfig
from mixvpr_jax.training.step import (
    compiler_options,
    create_state,
    make_optimizer,
    make_step,
    parameter_groups,
)

MODEL = ModelConfig("resnet18", (3, 4), MixVPRConfig(64, 1, 1, 16), (32, 32))
WIDTH = 1024  # of a descriptor
EACH = 2  # images a device
OPTIONS = {
    "official": {"layers_to_freeze": 1},
    "everything trained": {},
    "statistics per device": {"batch_stats_per_device": True},
    "statistics held still": {"freeze_batch_stats": True},
}
# LLVM's part of compiling, after all of XLA's passes over the HLO that is looked at here.
QUICKLY = {"xla_backend_optimization_level": 0}
# Sums of counts, of the loss and its weight, of the loss's cotangent; a float each.
MOST_SCALARS = 8
# Comparing, exponentiating, adding up …: what XLA counts beside the products, a pair of images.
ELEMENTWISE = 150


@cache
def compiled(num_devices, name):
    """The step's program, and the state that it takes."""
    model = create_model(MODEL)
    optimizer = make_optimizer(OptimizerConfig(layers_to_freeze=None), steps_per_epoch=4)
    mesh = data_mesh(jax.devices()[:num_devices])
    pair = LOSS_AND_MINER["multi_similarity"]
    # CPUs' own gradients are loops, whose operations XLA counts once.
    step = make_step(model, optimizer, *pair, mesh, platform=None, **OPTIONS[name])
    state = jax.device_put(create_state(model, optimizer), NamedSharding(mesh, P()))
    count = EACH * num_devices
    images = jax.ShapeDtypeStruct((count, *MODEL.image_size, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((count,), jnp.int32)
    return step.lower(state, images, labels).compile(QUICKLY), state


def expected_sums(state, name):
    """The shapes of what all devices add up, in a step of these options."""
    options, sums = OPTIONS[name], Counter()
    groups = dict(
        nnx.to_flat_state(parameter_groups(state.params, options.get("layers_to_freeze")))
    )
    for path, parameter in nnx.to_flat_state(state.params):
        shared = (
            "downsample" in path and path[-1] == "bias"
        )  # the same gradient as bn2's: sent once
        sums[squeezed(parameter.shape)] += groups[path] == "trained" and not shared
    for path, value in nnx.to_flat_state(state.statistics):
        scale = (*path[:-1], "scale")
        if options.get("batch_stats_per_device"):
            sums[value.shape] += 1  # the running one
        elif path[-1] == "mean" and not options.get("freeze_batch_stats"):
            sums[value.shape] += 2  # of values and of their squares
            sums[value.shape] += 2 * (groups[scale] == "trained")  # and towards them
    return +sums


@pytest.mark.parametrize("name", OPTIONS)
def test_devices_say_what_they_must_and_no_more(name):
    """Descriptors and labels are gathered; gradients and statistics are summed; nothing else."""
    program, state = compiled(8, name)
    found = collectives(program.as_text())
    count = 8 * EACH
    scalars = {key: n for key, n in found.items() if key[0] == "all-reduce" and not key[2]}
    assert sum(scalars.values()) <= MOST_SCALARS
    expected = {("all-reduce", "f32", s): n for s, n in expected_sums(state, name).items()}
    assert {key: n for key, n in found.items() if key not in scalars} == expected | {
        ("all-gather", "f32", (count, WIDTH)): 1,
        ("all-gather", "s32", (count,)): 1,
        ("reduce-scatter", "f32", (EACH, WIDTH)): 1,  # the gradient of the gathered descriptors
    }


@pytest.mark.parametrize("arch", ["resnet18", "deep"])
def test_blocks_computed_again(arch, monkeypatch):
    """The same step, for a third more work at most: a forward pass more."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "deep", ViTShape(6, 48, 2))
    model = create_model(
        ModelConfig(arch, (4,) if arch == "resnet18" else (), GeMConfig(), (56, 56))
    )
    optimizer = make_optimizer(OptimizerConfig(layers_to_freeze=None), steps_per_epoch=4)
    mesh, pair = data_mesh(jax.devices()[:1]), LOSS_AND_MINER["multi_similarity"]
    images = np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), np.uint8)
    labels = np.repeat(np.arange(4, dtype=np.int32), 2)
    found, flops = [], []
    for again in (False, True):
        step = make_step(model, optimizer, *pair, mesh, remat_blocks=again, platform=None)
        state = jax.tree.map(jnp.copy, create_state(model, optimizer))
        program = step.lower(state, images, labels).compile(QUICKLY)
        flops.append(program.cost_analysis()["flops"])
        found.append(program(state, images, labels))
    assert 1.1 < flops[1] / flops[0] < 1.4
    for before, after in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-5)


def test_work_grows_by_the_rows_of_the_pair_matrix_alone():
    """With as many images a device: floating-point operations of a device, on 1, 2, 4 and 8.

    Its rows against the whole batch are three products: the similarities and, backwards, one
    towards the rows and one towards the columns. Beside them stay a few operations a pair.
    """
    flops = {n: compiled(n, "official")[0].cost_analysis()["flops"] for n in (1, 2, 4, 8)}
    rest = {n: count - 6 * EACH * (EACH * n) * WIDTH for n, count in flops.items()}
    print(flops, rest)
    for devices in (2, 4, 8):
        pairs = EACH * EACH * devices // 2  # more than on half as many devices
        assert rest[devices] - rest[devices // 2] <= ELEMENTWISE * pairs
        assert abs(rest[devices] - rest[1]) <= 1e-4 * rest[1]


@pytest.mark.skipif(not version("jaxlib").startswith("0.10."), reason="figures of jaxlib 0.10")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_what_its_figures_say(name):
    """After a change that is meant and explained: `python tests/golden/programs.py`."""
    assert figures(lowered(name)) == json.loads(FIGURES.read_text())[name]


def test_nothing_passes_through_the_host():
    program, state = compiled(8, "official")
    text = program.as_text()
    assert not re.search(r"= .* (infeed|outfeed|send|recv)\(", text)
    assert not [name for name in re.findall(r'custom_call_target="(.*?)"', text) if "call" in name]
    state = jax.tree.map(jnp.copy, state)  # a step consumes it
    images = np.zeros((8 * EACH, *MODEL.image_size, 3), np.uint8)
    labels = np.arange(8 * EACH, dtype=np.int32) // 2
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            program(state, images, labels)
        placed = jax.device_put((images, labels), NamedSharding(data_mesh(), P(AXIS)))
        for _ in range(2):
            state, metrics = program(state, *placed)
        jax.block_until_ready(metrics)


def mesh_of(count: int, platform: str, kind: str = "") -> Mesh:
    device = SimpleNamespace(platform=platform, device_kind=kind)
    return create_autospec(Mesh, instance=True, size=count, devices=np.array([device] * count))


def test_xla_knows_the_options_for_several_gpus():
    """Of an option that it does not know it says so on any device."""
    add = jax.jit(lambda x: x + 1, compiler_options=compiler_options(mesh_of(2, "gpu")))
    np.testing.assert_array_equal(add(jnp.zeros(2)), 1)


@pytest.mark.parametrize(
    ("mesh", "flags", "options"),
    [
        (mesh_of(2, "gpu"), "", {"all_reduce_combine_threshold_bytes"}),
        (mesh_of(2, "gpu"), "--xla_gpu_all_reduce_combine_threshold_bytes=1", set()),
        (mesh_of(8, "tpu", "TPU v6 lite"), "", {"crs_combiner_threshold_in_bytes", "offload"}),
        (mesh_of(8, "tpu", "TPU v5"), "--xla_jf_crs_combiner_threshold_in_bytes=1", {"offload"}),
        (mesh_of(8, "tpu", "TPU v5 lite"), "", set()),
        (mesh_of(1, "gpu"), "", set()),
        (mesh_of(2, "cpu"), "", set()),
    ],
    ids=["GPUs", "GPUs, by flags", "v6e", "v5p, by flags", "v5e", "one GPU", "CPUs"],
)
def test_the_gradients_sum_overlaps_where_it_can(mesh, flags, options, monkeypatch):
    tpu = mesh.devices.flat[0].platform == "tpu"
    monkeypatch.setenv("XLA_FLAGS", "" if tpu else flags)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", flags if tpu else "")
    monkeypatch.setattr("jax.shard_map", lambda program, **_: program)
    jit = MagicMock()
    monkeypatch.setattr("jax.jit", jit)
    optimizer = make_optimizer(OptimizerConfig(layers_to_freeze=None), steps_per_epoch=4)
    pair = LOSS_AND_MINER["multi_similarity"]
    make_step(abstract_model(MODEL), optimizer, *pair, mesh)
    given = jit.call_args.kwargs["compiler_options"]
    found = re.findall(r"crs_\w*|all_reduce_combine\w*|offload", " ".join(given))
    assert set(found) == options


def test_collectives_beside_products_are_counted_in_the_schedule():
    text = """
ENTRY %main (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %whole = f32[4,4]{1,0} all-reduce(%p), to_apply=%add
  %early = f32[4,4]{1,0} all-reduce-start(%p), to_apply=%add
  %product = f32[4,4]{1,0} dot(%whole, %p)
  %late = f32[4,4]{1,0} all-reduce-start(%product), to_apply=%add
  %early.done = f32[4,4]{1,0} all-reduce-done(%early)
  ROOT %late.done = f32[4,4]{1,0} all-reduce-done(%late)
}
"""
    assert overlapping(text) == 1


def test_a_call_of_a_sparse_core_counts_as_the_collective_that_it_runs():
    text = """
%called (a: f32[4,4]) -> f32[4,4] {
  ROOT %sum = f32[4,4]{1,0} all-reduce(%a), to_apply=%add
}

ENTRY %main (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %start = ((f32[4,4]{1,0}), f32[4,4]{1,0}) call-start(%p), to_apply=%called
  %product = f32[4,4]{1,0} dot(%p, %p)
  ROOT %done = f32[4,4]{1,0} call-done(%start)
}
"""
    assert overlapping(text) == 1
    assert collective_counts(text) == (1, 1)
    assert bytes_by_class(text) == {"products": 3 * 64, "collectives": 2 * 64}


def test_bytes_are_those_of_the_devices_memory():
    """Not of a TPU's on-chip memory; of a slice that is fetched there, its own."""
    text = """
%product (a: bf16[8,4], b: bf16[4,4]) -> bf16[8,4] {
  ROOT %dot.1 = bf16[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (map: bf16[8,4], kernel: bf16[4,4]) -> bf16[8,4] {
  %map = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %kernel = bf16[4,4]{1,0:T(8,128)(2,1)} parameter(1)
  %slice-start.1 = ((bf16[8,4]{1,0:T(8,128)(2,1)}), bf16[2,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%map), slice={[0:2], [0:4]}
  %slice-done.1 = bf16[2,4]{1,0:T(8,128)S(1)} slice-done(%slice-start.1)
  %copy-start.1 = (bf16[4,4]{1,0:T(8,128)S(1)}, bf16[4,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%kernel)
  %copy-done.1 = bf16[4,4]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %fusion.1 = bf16[8,4]{1,0:T(8,128)S(1)} fusion(%map, %copy-done.1), kind=kOutput, calls=%product
  %joined = bf16[8,4]{1,0:T(8,128)S(1)} custom-call(%slice-done.1), custom_call_target="ConcatBitcast"
  ROOT %copy.1 = bf16[8,4]{1,0:T(8,128)} copy(%fusion.1)
}
"""  # noqa: E501
    slice_, kernel, whole = 2 * 2 * 4, 2 * 4 * 4, 2 * 8 * 4
    assert bytes_by_class(text) == {"copies": slice_ + kernel + whole, "products": whole}


@contextmanager
def counted_compilations(name):
    """The durations of XLA's compilations of functions with this in their name."""
    seen = []

    def note(event, duration, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and name in fun_name:
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_a_run_compiles_its_step_once(town, tmp_path, monkeypatch):
    """Over short batches, and once more where it goes on; and nothing is transferred in a step."""
    config = replace(tiny_config(town), validation=ValidationConfig(), epochs=2)
    taken = []

    def guarded(*arguments, **options):
        step = make_step(*arguments, **options)

        def take(*inputs):
            taken.append(inputs[2].shape)
            if len(taken) == 5:
                signal.raise_signal(signal.SIGTERM)  # stops after this step
            with jax.transfer_guard("disallow"):
                return step(*inputs)

        return take

    monkeypatch.setattr(loop, "make_step", guarded)
    with counted_compilations("device_step") as seen:
        assert loop.train(config, tmp_path / "run").step == 5
        assert len(seen) == 1
        assert loop.train(config, tmp_path / "run").step == 8
        assert len(seen) == 2
    assert len(taken) == 8
    assert [entry["step"] for entry in entries(tmp_path / "run")] == list(range(1, 9))
