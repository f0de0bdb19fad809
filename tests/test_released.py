"""Released names: the cache, the download, the hub, and every way in which a name is wrong."""

import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch_or_skip as torch
from recipe import official_shapes, recipe_state
from small_model import SMALL

from mixvpr_jax import InputError, from_pretrained, save_pretrained
from mixvpr_jax.pretrained import RELEASED, cache_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if not installed
    return tmp_path / "home"


def test_unknown_names_give_the_closest(tmp_path, home):
    with pytest.raises(InputError, match="resnet50_409: expected a released name.*resnet50_4096"):
        from_pretrained("resnet50_409")
    file = tmp_path / "some.ckpt"
    file.touch()
    with pytest.raises(InputError, match="found a file; convert .* mixvpr convert to-flax"):
        from_pretrained(file)


@pytest.mark.parametrize("name", ["a b.ckpt", "channels(1024)_rows(4).ckpt", "it's; ls $HOME.ckpt"])
def test_commands_can_be_pasted(tmp_path, home, monkeypatch, name):
    file = tmp_path / name
    file.touch()
    with pytest.raises(InputError) as error:
        from_pretrained(file)
    command = str(error.value).partition("with ")[2]
    assert shlex.split(command)[3:] == [str(file), "FOLDER"]
    monkeypatch.setenv("MIXVPR_HOME", str(file / "home"))
    with pytest.raises(InputError) as error:
        from_pretrained("resnet50_512")
    fetch, convert = str(error.value).partition("run: ")[2].split(" && ")
    checkpoint = f"{file}/home/{RELEASED['resnet50_512'].file_name}"
    assert shlex.split(fetch)[2:] == ["-O", checkpoint]
    assert shlex.split(convert)[3:] == [checkpoint, f"{file}/home/resnet50_512"]


def test_released_name_without_weights_gives_the_two_commands(home):
    with pytest.raises(InputError) as error:
        from_pretrained("resnet50_4096")
    line = str(error.value)
    assert "gdown 1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L -O" in line
    assert f"mixvpr convert to-flax '{home}/resnet50_MixVPR_4096_channels(1024)" in line
    assert "\n" not in line
    assert not home.exists()


def fake_gdown(monkeypatch, content):
    def download(id, output, quiet):  # gdown's own argument names
        assert id in {released.drive_id for released in RELEASED.values()}
        if content is None:
            raise RuntimeError("Too many users have viewed or downloaded this file recently.")
        if isinstance(content, bytes):
            Path(output).write_bytes(content)
        else:
            torch.save(content, output)

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))


def test_released_name_is_fetched_and_converted_once(home, monkeypatch):
    state = recipe_state(official_shapes()["resnet50_mixvpr_128"])
    fake_gdown(monkeypatch, {name: torch.tensor(array) for name, array in state.items()})
    model, preprocess = from_pretrained("resnet50_128")
    assert model.config == RELEASED["resnet50_128"].config
    assert preprocess.image_size == (320, 320)
    fake_gdown(monkeypatch, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    again, _ = from_pretrained("resnet50_128")
    kernel = again.aggregator.row_proj.kernel[...]
    assert np.array_equal(kernel.T, state["aggregator.row_proj.weight"])


def test_html_page_is_recognised_said_and_removed(home, monkeypatch):
    fake_gdown(monkeypatch, b"\n<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(InputError, match=r"found an HTML page, now removed"):
        from_pretrained("resnet50_512")
    assert not list(home.iterdir())


def test_failed_download_leaves_nothing(home, monkeypatch):
    fake_gdown(monkeypatch, None)
    with pytest.raises(InputError, match="Too many users"):
        from_pretrained("resnet50_512")
    assert not list(home.iterdir())


def test_weights_of_another_released_model_are_refused(home):
    state = recipe_state(official_shapes()["resnet18_mixvpr_64"])
    home.mkdir()
    path = home / RELEASED["resnet50_512"].file_name
    torch.save({name: torch.tensor(array) for name, array in state.items()}, path)
    with pytest.raises(InputError, match="expected the weights of resnet50_512"):
        from_pretrained("resnet50_512")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MIXVPR_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mixvpr_jax"


def test_several_processes_use_a_name_for_the_first_time(home, monkeypatch):
    """All have fetched and converted it; those that come later take what is there."""
    state = recipe_state(official_shapes()["resnet50_mixvpr_128"])
    fake_gdown(monkeypatch, {name: torch.tensor(array) for name, array in state.items()})
    save, overtaken = safetensors.numpy.save, []

    def save_last(*arguments, **options):
        if not overtaken:
            overtaken.append(True)
            from_pretrained("resnet50_128")
        return save(*arguments, **options)

    monkeypatch.setattr("safetensors.numpy.save", save_last)
    model, _ = from_pretrained("resnet50_128")
    assert overtaken
    assert model.config == RELEASED["resnet50_128"].config
    assert len(list(home.iterdir())) == 2  # the checkpoint and the model


def test_a_folder_of_that_name_that_holds_no_model(home, monkeypatch):
    state = recipe_state(official_shapes()["resnet50_mixvpr_128"])
    fake_gdown(monkeypatch, {name: torch.tensor(array) for name, array in state.items()})
    save = safetensors.numpy.save

    def save_last(*arguments, **options):
        (home / "resnet50_128").mkdir()
        (home / "resnet50_128" / "notes").write_text("")
        return save(*arguments, **options)

    monkeypatch.setattr("safetensors.numpy.save", save_last)
    with pytest.raises(InputError, match="resnet50_128: expected to make this folder, found one"):
        from_pretrained("resnet50_128")


def test_a_home_that_cannot_be_used(home, monkeypatch):
    fake_gdown(monkeypatch, b"")
    home.write_text("a file")
    with pytest.raises(OSError, match="home"):
        from_pretrained("resnet50_512")
    monkeypatch.delenv("MIXVPR_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match="expected a home directory .*found none; set MIXVPR_HOME"):
        from_pretrained("resnet50_512")


def test_hub(model, tmp_path, monkeypatch):
    save_pretrained(model, tmp_path / "hub")

    def snapshot_download(repository, allow_patterns):
        assert set(allow_patterns) == {"config.json", "model.safetensors"}
        if repository != "someone/mixvpr":
            raise RuntimeError("Repository Not Found\nfor url")
        return str(tmp_path / "hub")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    loaded, _ = from_pretrained("hf://someone/mixvpr")
    assert loaded.config == SMALL
    with pytest.raises(InputError, match="Repository Not Found for url"):
        from_pretrained("hf://someone/else")
    with pytest.raises(InputError, match="expected hf://organisation/repository"):
        from_pretrained("hf://mixvpr")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'mixvpr-jax\[hub\]'"):
        from_pretrained("hf://someone/mixvpr")
