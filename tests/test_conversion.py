"""Every kind of checkpoint in, there and back, and the two commands."""

import subprocess
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.numpy
import torch_or_skip as torch
from checkpoints import CASE, CONFIG, same_weights, saved, tensors
from recipe import GOLDEN, official_shapes, openvprlab_shapes, recipe_state

from mixvpr_jax import commands, create_model, from_pretrained, save_pretrained
from mixvpr_jax.conversion import convert_checkpoint, to_state_dict, write_checkpoint
from mixvpr_jax.conversion.key_table import to_flax, torch_name
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import ConvAPConfig, GeMConfig, ModelConfig


@pytest.mark.parametrize(
    "case", [c for c in official_shapes() if "backbone" in str(official_shapes()[c])]
)
def test_official_checkpoints_come_back_bit_identical(case, tmp_path):
    state = tensors(case)
    pool = (2, 2) if "convap" in case else None
    conversion = convert_checkpoint(saved(tmp_path / "a.ckpt", state), pool_size=pool)
    assert same_weights(conversion.model, state)
    write_checkpoint(conversion.model, tmp_path / "b.ckpt")
    back = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].dtype == tensor.dtype, name


def test_summary_tells_everything(path, state):
    conversion = convert_checkpoint(saved(path, state))
    assert conversion.model.config == CONFIG
    floats = [t for n, t in state.items() if t.is_floating_point() and ".running_" not in n]
    summary = conversion.summary()
    assert "state_dict, official" in summary
    assert "resnet18, 3 of 4 stages" in summary
    assert f"parameters: {sum(t.numel() for t in floats):,}" in summary
    assert "dropped: 15 batch counters" in summary
    assert "16 positions taken as 4x4" in summary


def test_released_parameter_counts():
    counts = {"4096": 10_880_900, "512": 10_092_898, "128": 9_896_098}
    for dim, count in counts.items():
        shapes = official_shapes()[f"resnet50_mixvpr_{dim}"]
        kept = [s for n, s in shapes.items() if "running" not in n and "num_batches" not in n]
        assert sum(int(np.prod(shape)) for shape in kept) == count


def test_lightning_checkpoint(path, state):
    losses = ["loss_fn.W", "loss_func.W", "loss_function.W", "miner.x"]
    counts = ["total_ops", "backbone.model.conv1.total_params"]  # of thop.profile
    lightning = {
        "state_dict": OrderedDict(state) | dict.fromkeys(losses + counts, torch.ones(3)),
        "hyper_parameters": {"agg_config": {"in_h": 2, "in_w": 8}, "lr": 0.05},
        "lr_schedulers": [{"milestones": Counter({5: 1}), "gamma": 0.3}],
        "epoch": 3,
    }
    conversion = convert_checkpoint(saved(path, lightning))
    assert "Lightning" in conversion.checkpoint.kind
    assert conversion.model.config.feature_size == (2, 8)  # as trained, not the square
    assert conversion.checkpoint.dropped["parameters of a loss or miner"] == losses
    assert conversion.checkpoint.dropped["counters of thop"] == counts
    assert same_weights(conversion.model, state)


def test_stages_left_in_the_file_are_cut(path, state):
    from reference_torch import TorchvisionResNet

    full = {
        f"backbone.model.{n}": t
        for n, t in TorchvisionResNet("resnet18", 4, True).state_dict().items()
    }
    conversion = convert_checkpoint(saved(path, full | state))
    assert conversion.model.config == CONFIG
    dropped = conversion.checkpoint.dropped
    assert all(".layer4." in name for name in dropped["cut stages"])
    assert len(dropped["cut stages"]) == 25  # 5 convolutions, 5 norms of 4
    assert dropped["head behind the backbone"] == [
        "backbone.model.fc.weight",
        "backbone.model.fc.bias",
    ]
    assert same_weights(conversion.model, state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.module.", "_orig_mod."])
def test_prefixes(path, state, prefix):
    prefixed = {prefix + name: tensor for name, tensor in state.items()}
    assert same_weights(convert_checkpoint(saved(path, prefixed)).model, state)


def test_hyper_parameters_tell_what_weights_cannot(path):
    from reference_torch import TorchvisionResNet

    backbone = TorchvisionResNet("resnet101", 4).state_dict()
    state = {f"backbone.model.{name}": tensor for name, tensor in backbone.items()}
    state["aggregator.p"] = torch.full((1,), 3.0)
    told = {"backbone_arch": "resnet101", "layers_to_crop": [4, 3]}
    config = convert_checkpoint(
        saved(path, {"state_dict": state, "hyper_parameters": told})
    ).model.config
    assert (config.arch, config.layers_to_crop) == ("resnet101", (3, 4))
    cut = {name: t for name, t in state.items() if "layer3" not in name and "layer4" not in name}
    untold = convert_checkpoint(saved(path, cut))
    assert untold.model.config.arch == "resnet50"
    assert "backbone called resnet50; the same, as far as it is kept: resnet101" in untold.summary()


@pytest.mark.parametrize("hyper_parameters", [None, [1], {"agg_config": 3, "layers_to_crop": "4"}])
def test_odd_hyper_parameters_are_passed_over(path, state, hyper_parameters):
    content = {"state_dict": state, "hyper_parameters": hyper_parameters}
    assert convert_checkpoint(saved(path, content)).model.config == CONFIG


def test_weights_left_aside_are_said(path, state):
    content = {"state_dict": state, "ema_state_dict": state}
    assert "note: ema_state_dict left aside" in convert_checkpoint(saved(path, content)).summary()


@pytest.mark.parametrize("case", openvprlab_shapes())
def test_openvprlab(path, tmp_path, case):
    state = recipe_state(openvprlab_shapes()[case])
    conversion = convert_checkpoint(
        saved(path, {name: torch.tensor(array) for name, array in state.items()})
    )
    config = conversion.model.config
    assert config.arch == case.split("_")[0]
    assert config.layers_to_crop == ((4,) if "cropTrue" in case else ())
    assert "OpenVPRLab" in conversion.checkpoint.kind
    ours = to_state_dict(conversion.model)
    by_content = {array.tobytes() for array in ours.values()}
    assert all(array.tobytes() in by_content for array in state.values())
    assert np.array_equal(
        ours["backbone.model.conv1.weight"], state["backbone.frozen_layers.0.0.weight"]
    )
    last = max(int(n.split(".")[2]) for n in state if "unfrozen" in n)
    name = f"backbone.unfrozen_layers.{last}.1.conv2.weight"
    stage = config.num_stages
    assert np.array_equal(ours[f"backbone.model.layer{stage}.1.conv2.weight"], state[name])
    options = {"layout": "openvprlab", "unfrozen_blocks": last + 1}
    write_checkpoint(conversion.model, tmp_path / "back.ckpt", **options)
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)
    assert back.keys() == state.keys()  # load_state_dict(strict=True) into OpenVPRLab's modules
    assert all(np.array_equal(back[name].numpy(), array) for name, array in state.items())


def test_torchvision_backbone(path):
    from reference_torch import TorchvisionResNet

    backbone = TorchvisionResNet("resnext50_32x4d", 4, full=True).state_dict()
    conversion = convert_checkpoint(saved(path, backbone))
    assert conversion.model.config == ModelConfig("resnext50_32x4d", (), None)
    assert conversion.checkpoint.dropped["head behind the backbone"] == [
        "backbone.model.fc.weight",
        "backbone.model.fc.bias",
    ]
    ours = to_state_dict(conversion.model)
    expected = {f"backbone.model.{n}": t for n, t in backbone.items() if not n.startswith("fc.")}
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[n], expected[n].numpy()) for n in expected)


def test_safetensors(tmp_path, state):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert same_weights(convert_checkpoint(path).model, state)


def test_safetensors_under_another_name(path, state):
    from safetensors.torch import save_file

    save_file(state, path)
    assert same_weights(convert_checkpoint(path).model, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_said(path, state, dtype):
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    conversion = convert_checkpoint(saved(path, half))
    assert same_weights(
        conversion.model, {n: t.float() if t.is_floating_point() else t for n, t in half.items()}
    )
    name = str(dtype).removeprefix("torch.")
    assert f"note: {name} weights stored as float32" in conversion.summary()


def test_map_that_is_no_square_needs_its_size(tmp_path):
    shapes = dict(official_shapes()[CASE])
    for name, shape in shapes.items():
        if name.startswith("aggregator") and "channel_proj" not in name:
            shapes[name] = [{16: 12, 32: 24}.get(size, size) for size in shape]
    state = {n: torch.tensor(a) for n, a in recipe_state(shapes).items()}
    path = saved(tmp_path / "flat.ckpt", state)
    with pytest.raises(InputError, match=r"12 positions are no square.*--in-size H W"):
        convert_checkpoint(path)
    with pytest.raises(InputError, match="expected 12 positions, found 5x2"):
        convert_checkpoint(path, in_size=(5, 2))
    model = convert_checkpoint(path, in_size=(3, 4)).model
    assert model.config.image_size == (48, 64)
    assert same_weights(model, state)


def test_convap_cells_are_asked_for_or_said(tmp_path):
    path = saved(tmp_path / "convap.ckpt", tensors("resnet18_full_convap"))
    assumed = convert_checkpoint(path)
    assert assumed.model.config.aggregator == ConvAPConfig(32, 2, 2)
    assert "ConvAP's cells taken as 2x2" in assumed.summary()
    given = convert_checkpoint(path, pool_size=(3, 1))
    assert given.model.config.aggregator == ConvAPConfig(32, 3, 1)
    assert "ConvAP" not in "".join(given.checkpoint.notes)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=GOLDEN.parent.parent,
        timeout=300,
    )


def test_commands_there_and_back(tmp_path, path, state):
    there = run("convert.torch_to_flax", saved(path, state), tmp_path / "model")
    assert there.returncode == 0, there.stderr
    assert "parameters: " in there.stdout
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    back = run("convert.flax_to_torch", tmp_path / "model", tmp_path / "back.ckpt")
    assert back.returncode == 0, back.stderr
    loaded = torch.load(tmp_path / "back.ckpt", weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", ["back.ckpt", "back.safetensors"])
def test_an_earlier_file_is_replaced_where_that_is_asked_for(tmp_path, path, state, name):
    commands.to_flax(str(saved(path, state)), str(tmp_path / "model"))
    back = tmp_path / name
    back.write_bytes(b"kept")
    with pytest.raises(InputError, match=f"expected no earlier output, found {name}; .*overwrite"):
        commands.to_torch(str(tmp_path / "model"), str(back))
    assert back.read_bytes() == b"kept"
    commands.to_torch(str(tmp_path / "model"), str(back), overwrite=True)
    assert same_weights(convert_checkpoint(back).model, state)
    with pytest.raises(InputError, match="model: expected a file to write, found a folder"):
        commands.to_torch(str(tmp_path / "model"), str(tmp_path / "model"), overwrite=True)
    own = tmp_path / "model" / "model.safetensors"
    with pytest.raises(InputError, match="model.safetensors: expected another file than the weigh"):
        commands.to_torch(str(tmp_path / "model"), str(own), overwrite=True)
    for other in ("model/config.json", "model/README.md", "m.onnx"):
        with pytest.raises(InputError, match=f"{other}: expected a checkpoint's name, such as"):
            commands.to_torch(str(tmp_path / "model"), str(tmp_path / other), overwrite=True)
    assert same_weights(from_pretrained(tmp_path / "model")[0], state)


@pytest.mark.parametrize("own", ["bilinear", "bicubic"])
@pytest.mark.parametrize("layout, theirs", [("official", "bilinear"), ("openvprlab", "bicubic")])
def test_what_the_file_cannot_tell_the_code_that_loads_it_is_said(
    tmp_path, capsys, own, layout, theirs
):
    config = ModelConfig("resnet18", (3, 4), GeMConfig(), (48, 64), interpolation=own)
    save_pretrained(create_model(config), tmp_path / "model")
    commands.to_torch(str(tmp_path / "model"), str(tmp_path / "a.ckpt"), layout=layout)
    line = f"note: images of this model are resized with a {own} filter, by the code that loads"
    told = capsys.readouterr().out
    assert (line in told) == (own != theirs)
    assert "(resnet18, GeMConfig(p=3.0), images of 48x64)" in told


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "found none"),
        (b"<!DOCTYPE html><html>quota</html>", "HTML page"),
        (b"PK\3\4", "trunc"),
    ],
)
def test_commands_end_with_status_2_and_one_line(tmp_path, content, expected):
    path = tmp_path / "model.ckpt"
    if content is not None:
        path.write_bytes(content)
    result = run("convert.torch_to_flax", path, tmp_path / "model")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {path}: expected") and expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


OTHERS = {
    "a download of the hub": ("config.json", "model.safetensors", "README.md"),
    "weights alone": ("model.safetensors",),
    "notes": ("README.md",),
    "settings": ("config.json",),
}


@pytest.mark.parametrize("names", OTHERS.values(), ids=OTHERS)
def test_files_of_others_are_not_replaced(tmp_path, path, state, names):
    """Nor the checkpoint itself, which lies among them."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('{"their": "own"}')
    saved(path, state)
    if "model.safetensors" in names:
        path = folder / "model.safetensors"
        safetensors.numpy.save_file({n: t.numpy() for n, t in state.items()}, path)
    before = {name: (folder / name).read_bytes() for name in names}
    with pytest.raises(InputError) as error:
        commands.to_flax(str(path), str(folder))
    assert f"found others' files ({', '.join(names)}); choose another folder" in str(error.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_model_is_converted_anew(tmp_path, path, state):
    folder = tmp_path / "model"
    commands.to_flax(str(saved(path, state)), str(folder))
    (folder / "notes.txt").write_text("stay")
    doubled = {name: tensor * 2 for name, tensor in state.items()}
    commands.to_flax(str(saved(path, doubled)), str(folder))
    assert same_weights(from_pretrained(folder)[0], doubled)
    assert (folder / "notes.txt").read_text() == "stay"
    (folder / "config.json").write_text('{"edited": "badly"}')
    with pytest.raises(InputError, match="found others' files"):
        commands.to_flax(str(path), str(folder))


def test_a_file_in_place_of_the_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: expected a folder for the model, found a file;"):
        commands.to_flax(str(tmp_path / "none.ckpt"), str(tmp_path / "file"))


@pytest.mark.parametrize("name", ["model.safetensors", "weights.bin"])
def test_a_model_that_needs_no_conversion(tmp_path, path, state, name):
    folder = tmp_path / "model"
    commands.to_flax(str(saved(path, state)), str(folder))
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError, match="found one of mixvpr-jax, .* give its folder"):
        commands.to_flax(str(folder / name), str(tmp_path / "again"))
    with pytest.raises(InputError, match=f"give the folder: {folder}$"):
        from_pretrained(folder / name)


def test_a_weight_by_its_official_name_and_by_ours(path, state):
    state["backbone.conv1.kernel"] = torch.zeros(7, 7, 3, 64)
    message = r"found both backbone\.model\.conv1\.weight and backbone\.conv1\.kernel"
    with pytest.raises(InputError, match=message):
        convert_checkpoint(saved(path, state))


def test_the_key_table_is_one_to_one():
    for case, shapes in official_shapes().items():
        names = [name for name in shapes if not name.endswith("num_batches_tracked")]
        if "backbone.model.conv1.weight" not in shapes:
            continue
        ours = to_flax({n: np.broadcast_to(np.float32(0), shapes[n]) for n in names})
        assert len(ours) == len(names), case
        assert [torch_name(name) for name in ours] == names
