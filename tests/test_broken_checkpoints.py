"""Every kind of broken, foreign or hostile checkpoint refused, and what is wrong said."""

import gzip
import os
import pickle

import numpy as np
import pytest
import torch_or_skip as torch
from checkpoints import same_weights, saved

from mixvpr_jax import save_pretrained
from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.conversion.formats import read_safetensors
from mixvpr_jax.errors import InputError


def test_every_key_is_accounted_for(path, state):
    del state["backbone.model.layer3.1.bn2.running_var"]
    del state["aggregator.mix.1.mix.3.bias"]
    state["aggregator.surplus.weight"] = torch.ones(2)
    with pytest.raises(InputError) as error:
        convert_checkpoint(saved(path, state))
    missing, surplus = str(error.value).split("; ")
    assert "backbone.model.layer3.1.bn2.running_var" in missing
    assert "aggregator.mix.1.mix.3.bias" in missing
    assert surplus == "entries left over: aggregator.surplus.weight"


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("backbone.model.layer1.0.conv2.weight", torch.tensor(1.0)),
        ("backbone.model.layer1.0.conv2.weight", torch.ones(64, 0, 3, 3)),
        ("backbone.model.layer2.0.conv2.weight", torch.ones(3, 3)),
        ("aggregator.row_proj.weight", torch.ones(4)),
        ("aggregator.row_proj.weight", torch.ones(4, 0)),
        ("aggregator.channel_proj.weight", torch.ones(16, 256, 1)),
    ],
)
def test_odd_shapes_are_named(path, state, name, tensor):
    with pytest.raises(InputError, match=f"official.ckpt: .*{name}"):
        convert_checkpoint(saved(path, state | {name: tensor}))


def test_names_that_are_one_as_text_are_refused(path, state):
    """Of 1 and "1" one would be lost."""
    extra = {1: torch.ones(1), "1": torch.zeros(1)}
    with pytest.raises(InputError, match=r"official.ckpt: expected each name once, found 1 as tex"):
        convert_checkpoint(saved(path, state | extra))


def test_integers_are_no_weights(path, state):
    state["aggregator.row_proj.bias"] = torch.ones(4, dtype=torch.int32)
    with pytest.raises(
        InputError, match=r"expected floats, found: aggregator.row_proj.bias \(int32\)"
    ):
        convert_checkpoint(saved(path, state))


def test_wrong_shape_is_named(path, state):
    state["backbone.model.layer2.0.bn1.weight"] = torch.ones(7)
    with pytest.raises(
        InputError, match=r"wrong shapes: backbone.model.layer2.0.bn1.weight .*\[7\]"
    ):
        convert_checkpoint(saved(path, state))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_weights_are_named(path, state, value):
    state["aggregator.row_proj.bias"][1] = value
    with pytest.raises(InputError, match=r"not finite in: aggregator.row_proj.bias$"):
        convert_checkpoint(saved(path, state))


def test_unknown_backbone(path, state):
    for name in [name for name in state if ".layer2.1." in name]:
        del state[name]
    with pytest.raises(
        InputError, match=r"backbone: expected one of resnet18, .* \(2, 1, 2\) blocks"
    ):
        convert_checkpoint(saved(path, state))


def test_unknown_aggregator(path, state):
    other = {n: t for n, t in state.items() if not n.startswith("aggregator.")}
    other["aggregator.vlad.centroids"] = torch.ones(64, 256)
    with pytest.raises(InputError, match=r"expected MixVPR .* found vlad"):
        convert_checkpoint(saved(path, other))


class Exploit:
    """Touches a file when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_never_executed(tmp_path, writer):
    target, path = tmp_path / "executed", tmp_path / "evil.ckpt"
    content = {"state_dict": {"conv1.weight": torch.ones(1)}, "callbacks": Exploit(target)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"callbacks": Exploit(target)}))
    with pytest.raises(InputError, match="evil.ckpt: expected"):
        convert_checkpoint(path)
    assert not target.exists()


def test_truncated_files(tmp_path, state):
    from safetensors.torch import save_file

    for name in ("cut.ckpt", "cut.safetensors"):
        path = tmp_path / name
        if name.endswith("ckpt"):
            torch.save(state, path)
        else:
            save_file(state, path)
        path.write_bytes(path.read_bytes()[:10000])
        with pytest.raises(InputError, match=f"{name}: expected"):
            convert_checkpoint(path)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty.ckpt: expected"):
        convert_checkpoint(tmp_path / "empty.ckpt")


def test_files_that_end_in_zeros(tmp_path, state):
    """As a download leaves them that was interrupted after it took the room of the whole file."""
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file(state, path)
    save_pretrained(convert_checkpoint(path).model, tmp_path / "model")
    for file in (path, tmp_path / "model" / "model.safetensors"):
        whole = file.read_bytes()
        for part in (0.02, 0.2, 0.5, 0.75):
            there = int(part * len(whole))
            file.write_bytes(whole[:there] + bytes(len(whole) - there))
            with pytest.raises(InputError, match=rf"{file}: .* found zeros alone from .* again"):
                read_safetensors(file)


@pytest.mark.parametrize("zeros", ["layer3.1.conv2.weight", "bias", "running_mean", ""])
def test_weights_that_are_zero_may_be_meant(path, state, zeros):
    """Those of a branch that starts as an identity, of a fresh model, of no model."""
    from safetensors.torch import save_file

    for name in state:
        state[name] *= not name.endswith(zeros)
    save_file(state, path)
    assert same_weights(convert_checkpoint(path).model, state)


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "expected a dictionary of tensors, found list"),
        (torch.ones(2), "expected a dictionary of tensors, found one tensor"),
        ({"epoch": 3}, "expected a state_dict of tensors, found keys epoch"),
        ({"state_dict": [1]}, "expected a state_dict of tensors, found keys state_dict"),
        ({1: torch.ones(2)}, "expected one of the keys .* found 1"),
        ({"encoder.weight": torch.ones(2)}, "expected one of the keys .* found encoder.weight"),
        ({"conv1.weight": torch.ones(64, 3, 7, 7)}, "expected stages"),
    ],
)
def test_other_contents(path, content, message):
    with pytest.raises(InputError, match=message):
        convert_checkpoint(saved(path, content))


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"model": "none"}', "found a truncated or foreign file"),
        (b"just text", "found a truncated or foreign file"),
        (b"\x89PNG\r\n\x1a\n and so on", "found a truncated or foreign file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "found a Git LFS pointer"),
        (b"/annex/objects/MD5E-s9--0.ckpt\n", "found a pointer of git-annex; git annex get"),
        (b"\xef\xbb\xbf <!DOCTYPE html>", "found an HTML page"),
        (b"Entry not found", "(text that begins 'Entry not found')"),
        (b"<?xml version='1.0'?>\n<Code>AccessDenied</Code>", "AccessDenied"),
        (b"", "found an empty file"),
        (
            gzip.compress(b"a checkpoint", mtime=0),
            "found a compressed file or an archive; unpack it",
        ),
        (b"a".ljust(257, b"\0") + b"ustar", "found a compressed file or an archive; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "found an HDF5 file"),
    ],
)
def test_files_that_are_no_checkpoints_are_called_what_they_are(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        convert_checkpoint(path)
    assert message in str(error.value)
    assert "code" not in str(error.value)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model-00001-of-00002.safetensors", "one shard of several"),
        ("pytorch_model-00002-of-00002.bin", "one shard of several"),
        ("model.safetensors.index.json", "an index of shards"),
    ],
)
def test_parts_of_a_checkpoint(tmp_path, state, name, found):
    with pytest.raises(InputError, match=f"{name}: expected a checkpoint, found {found}; save"):
        convert_checkpoint(saved(tmp_path / name, state))
    whole = saved(tmp_path / "pytorch_model-00001-of-00001.bin", state)
    assert same_weights(convert_checkpoint(whole).model, state)


def test_a_folder_in_place_of_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="found a folder; give the file in it"):
        convert_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "merge"),
    [
        ((".metadata", "__0_0.distcp"), "dcp_to_torch_save"),
        (("meta.pt", "__1_0.distcp"), "dcp_to_torch_save"),
        (("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"), "zero_to_fp"),
        (("latest", "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), "zero_to_fp"),
        (("model-00001-of-00002.safetensors",), "save them as one file"),
    ],
)
def test_a_checkpoint_in_parts(tmp_path, names, merge):
    folder = tmp_path / "parts"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"some")
    for path in (folder, folder / names[-1]):
        with pytest.raises(InputError, match=rf"{path}: expected a checkpoint.*, found .*{merge}"):
            convert_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits(tmp_path, state, dtype):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=f"expected floats of 16 bits or more, found {kind}; save"):
        convert_checkpoint(path)


def test_sizes_below_one_are_refused(path, state):
    with pytest.raises(InputError, match="expected a size of two numbers above 0, found -4 -4"):
        convert_checkpoint(saved(path, state), in_size=(-4, -4))
