"""What a run starts from: fresh weights, a model, another run, torchvision's ImageNet weights."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch_or_skip as torch
from runs import RESNET, tiny_config

from mixvpr_jax import create_model, from_pretrained, save_pretrained
from mixvpr_jax.conversion import get_weights, to_state_dict, write_checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.models.config import ConvAPConfig, GeMConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.training.checkpoint import last_step
from mixvpr_jax.training.config import StartConfig
from mixvpr_jax.training.loop import Setup, train
from mixvpr_jax.training.start import initial_model


def of_run(town, init, **changes):
    return replace(tiny_config(town).model, init=str(init), **changes)


def same_weights(model, other):
    one, two = get_weights(model), get_weights(other)
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)


def test_fresh_weights_follow_the_seed(town):
    config = tiny_config(town).model
    assert same_weights(initial_model(config, seed=3), initial_model(config, seed=3))
    assert not same_weights(initial_model(config, seed=3), initial_model(config, seed=4))


@pytest.mark.parametrize(("steps", "is_told"), [(12, False), (13, True)])
def test_a_warm_up_that_is_longer_than_the_run(town, tmp_path, caplog, steps, is_told):
    """Of twelve steps, the last of which has the whole learning rate or less."""
    config = tiny_config(town)
    optimizer = replace(config.optimizer, warmup_steps=steps)
    setup = Setup(replace(config, optimizer=optimizer), tmp_path / "none")
    assert (setup.learning_rates()[-1] < optimizer.learning_rate * 0.999) == is_told
    line = "the run of 12 steps ends in its warm-up (optimizer.warmup_steps 13)"
    assert (line in caplog.text) == is_told


def test_from_a_models_folder_and_from_a_checkpoint(town, tmp_path):
    architecture = replace(tiny_config(town).model, **RESNET).architecture
    model = create_model(architecture, seed=9)
    save_pretrained(model, tmp_path / "model")
    write_checkpoint(model, tmp_path / "model.ckpt")
    for init in (tmp_path / "model", tmp_path / "model.ckpt"):
        assert same_weights(initial_model(of_run(town, init, **RESNET), seed=0), model)


@pytest.mark.parametrize("size", [(32, 48), (40, 32), (16, 80)])
def test_mixvprs_weights_are_for_positions(town, tmp_path, size):
    """Those of 4x5 positions fit 5x4 and 2x10 in shape alone."""
    save_pretrained(create_model(tiny_config(town).model.architecture), tmp_path / "model")
    line = r"feature_size \(\d+, \d+\), found \(4, 5\); give --model.image-size 32 40"
    with pytest.raises(InputError, match=line):
        initial_model(of_run(town, tmp_path / "model", image_size=size), seed=0)


def test_other_aggregators_take_images_of_any_size_and_no_other_stage(town, tmp_path):
    config = replace(tiny_config(town).model, **RESNET, aggregator=GeMConfig())
    save_pretrained(create_model(config.architecture), tmp_path / "model")
    started = replace(config, init=str(tmp_path / "model"), image_size=(40, 32))
    assert initial_model(started, seed=0).config.image_size == (40, 32)
    line = r"layers_to_crop \(4,\), found \(3, 4\); give --model.layers-to-crop 3 4"
    with pytest.raises(InputError, match=line):
        initial_model(replace(started, layers_to_crop=(4,)), seed=0)


@pytest.mark.parametrize(
    ("aggregator", "told", "line"),
    [
        (
            MixVPRConfig(8, 1, 1, 2),
            {"in_h": 20, "in_w": 4},
            r"feature_size \(8, 10\), found \(20, 4\)",
        ),
        (ConvAPConfig(8, 2, 2), {"s1": 4, "s2": 1}, r"aggregator .*s2=2\), found .*s1=4, s2=1\)"),
    ],
)
def test_what_a_checkpoint_tells_of_its_sizes(town, tmp_path, aggregator, told, line):
    """Its weights fit the wanted ones, too."""
    config = replace(tiny_config(town).model, **RESNET, image_size=(64, 80), aggregator=aggregator)
    state = to_state_dict(create_model(config.architecture))
    state = {name: torch.tensor(np.array(array)) for name, array in state.items()}
    for settings in ({}, told):
        content = {"state_dict": state, "hyper_parameters": {"agg_config": settings}}
        torch.save(content, tmp_path / "last.ckpt")
        started = replace(config, init=str(tmp_path / "last.ckpt"))
        if settings:
            with pytest.raises(InputError, match=line):
                initial_model(started, seed=0)
        else:
            assert initial_model(started, seed=0)


def test_from_another_run(finished, town, tmp_path):
    workdir, outcome = finished
    model, _ = from_pretrained(outcome.model)
    assert same_weights(initial_model(of_run(town, workdir), seed=0), model)
    unfinished = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(unfinished / "model")
    last = initial_model(of_run(town, unfinished), seed=0)
    shapes = {name: array.shape for name, array in get_weights(last).items()}
    assert shapes == {name: array.shape for name, array in get_weights(model).items()}
    shutil.rmtree(unfinished / "checkpoints" / "12")
    assert not same_weights(initial_model(of_run(town, unfinished), seed=0), last)
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "checkpoints").mkdir()
    with pytest.raises(InputError, match="expected a run with a checkpoint, found none"):
        initial_model(of_run(town, unfinished), seed=0)


def test_a_run_that_is_saving_is_only_read(finished, town, tmp_path):
    """Another run may be in the middle of a save: starting from it leaves that as it is."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "model")
    unfinished = shutil.copytree(
        workdir / "checkpoints" / "8", workdir / "checkpoints" / "15.orbax-checkpoint-tmp"
    )
    before = sorted(path for path in workdir.rglob("*"))
    initial_model(of_run(town, workdir), seed=0)
    assert last_step(workdir) == 12
    assert sorted(path for path in workdir.rglob("*")) == before
    assert unfinished in before


def test_from_torchvisions_weights(town, tmp_path):
    from reference_torch import TorchvisionResNet

    torch.manual_seed(0)
    backbone = TorchvisionResNet("resnet18", full=True)
    torch.save(backbone.state_dict(), tmp_path / "resnet18.pth")
    config = of_run(town, tmp_path / "resnet18.pth", **RESNET)
    state = to_state_dict(initial_model(config, seed=5))
    expected = {f"backbone.model.{name}": array for name, array in backbone.state_dict().items()}
    for name, array in state.items():
        if name.startswith("backbone") and "num_batches" not in name:
            assert np.array_equal(array, expected[name].numpy()), name
    fresh = to_state_dict(create_model(config.architecture, seed=5))
    heads = [name for name in fresh if name.startswith("aggregator")]
    assert heads
    assert all(np.array_equal(state[name], fresh[name]) for name in heads)
    with pytest.raises(InputError, match=r"expected a resnet34, found a resnet18"):
        initial_model(replace(config, arch="resnet34"), seed=0)


def test_from_a_model_with_another_head(town, tmp_path):
    model = create_model(replace(tiny_config(town).model.architecture, aggregator=MixVPRConfig()))
    save_pretrained(model, tmp_path / "model")
    with pytest.raises(InputError, match=r"a model with aggregator MixVPRConfig\(out_channels=8.*"):
        initial_model(of_run(town, tmp_path / "model"), seed=0)


@pytest.mark.parametrize(("wanted", "found"), [("bilinear", "bicubic"), ("bicubic", "bilinear")])
def test_from_a_model_with_another_interpolation(finished, town, tmp_path, wanted, found):
    config = tiny_config(town).model
    model = create_model(replace(config.architecture, interpolation=found))
    save_pretrained(model, tmp_path / "model")
    run = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(run / "model")
    values = json.loads((run / "config.json").read_text())
    values["model"]["interpolation"] = found
    (run / "config.json").write_text(json.dumps(values))
    for init in (tmp_path / "model", run):
        started = replace(config, init=str(init), interpolation=wanted)
        line = (
            f"{init}: expected a model with interpolation {wanted}, found {found}; give "
            f"--model.interpolation {found}"
        )
        with pytest.raises(InputError, match=line):
            initial_model(started, seed=0)
        assert initial_model(replace(started, interpolation=found), seed=0)
    resnet = replace(config, **RESNET)
    model = create_model(replace(resnet.architecture, interpolation=found))
    write_checkpoint(model, tmp_path / "model.ckpt")  # which does not tell
    file = replace(resnet, init=str(tmp_path / "model.ckpt"), interpolation=wanted)
    assert initial_model(file, seed=0).config.interpolation == wanted
    weights = {"state_dict": torch.load(tmp_path / "model.ckpt")}
    torch.save(weights | {"hyper_parameters": {"interpolation": found}}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=f"{wanted}, found {found}; give --model.interpolation"):
        initial_model(file, seed=0)


def test_from_dinov2s_weights(town, tmp_path, monkeypatch):
    """A backbone's file says nothing of the last LayerNorm; a whole model's does."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        for name in ("tiny", "tiny, by another name"):
            monkeypatch.setitem(mapping, name, ViTShape(2, 24, 3))
    bare = create_model(ModelConfig("tiny", (), None, (28, 28)), seed=1)
    state = {n.removeprefix("backbone.model."): a for n, a in to_state_dict(bare).items()}
    torch.save({name: torch.tensor(array) for name, array in state.items()}, tmp_path / "x.pth")
    config = StartConfig("tiny", (), GeMConfig(), (28, 28), final_norm=False)
    model = initial_model(replace(config, init=str(tmp_path / "x.pth")), seed=0)
    assert not model.config.final_norm
    for name, array in to_state_dict(model).items():
        if name.startswith("backbone."):
            assert np.array_equal(array, state[name.removeprefix("backbone.dino.")])
    also = replace(config, arch="tiny, by another name", init=str(tmp_path / "x.pth"))
    assert same_weights(initial_model(also, seed=0), model)
    save_pretrained(model, tmp_path / "model")
    wanted = replace(config, init=str(tmp_path / "model"), final_norm=True)
    with pytest.raises(InputError, match="final_norm True, found False; give --model.no-"):
        initial_model(wanted, seed=0)


@pytest.mark.parametrize("model", ["null", "[]", "[1]", "3"])
def test_from_a_run_whose_configuration_is_broken(finished, town, tmp_path, model):
    run = shutil.copytree(finished[0], tmp_path / "other")
    shutil.rmtree(run / "model")
    (run / "config.json").write_text(f'{{"model": {model}}}')
    with pytest.raises(InputError, match="expected a run's config.json|missing fields"):
        initial_model(of_run(town, run), seed=0)


def test_from_nothing_that_exists(town, tmp_path):
    config = replace(tiny_config(town), model=of_run(town, "resnet50_409"))
    with pytest.raises(InputError, match="closest: resnet50_4096"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
