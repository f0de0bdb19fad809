"""Released names: the cache, the download, and every way in which a name is wrong."""

import hashlib
import http.server
import shlex
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch_or_skip as torch
from one_program import describe
from recipe import official_shapes, recipe_state
from reference_torch import CosPlaceNet

from mixvpr_jax import InputError, create_model, from_pretrained
from mixvpr_jax.conversion import get_weights
from mixvpr_jax.conversion.formats import Checkpoint
from mixvpr_jax.conversion.infer import infer_config
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.conversion.layouts import LAYOUTS
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.released import RELEASED, cache_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "gdown", None)  # as if not installed
    return tmp_path / "home"


def test_unknown_names_give_the_closest(tmp_path, home):
    with pytest.raises(InputError, match="resnet50_409: expected a released name.*resnet50_4096"):
        from_pretrained("resnet50_409")
    with pytest.raises(InputError, match="closest: eigenplaces_resnet50_2048, "):
        from_pretrained("eigenplaces_resnet50_2084")
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
    install, make, fetch, convert = str(error.value).partition("run: ")[2].split(" && ")
    assert install == "pip install gdown"
    assert shlex.split(make) == ["mkdir", "-p", f"{file}/home"]
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


SMALL = "resnet18_mixvpr_64"


@pytest.fixture
def small_128(monkeypatch):
    """The weights of a small model under the name of resnet50_128."""
    state = {n: torch.tensor(array) for n, array in recipe_state(official_shapes()[SMALL]).items()}
    config = infer_config(Checkpoint("", LAYOUTS[0], dict(state)))
    small = replace(RELEASED["resnet50_128"], config=config)
    monkeypatch.setitem(RELEASED, "resnet50_128", small)
    return state


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


def test_a_folder_that_is_called_like_a_released_model(home, monkeypatch, small_128, tmp_path):
    """The output of an evaluation gives way, a model does not."""
    fake_gdown(monkeypatch, small_128)
    monkeypatch.chdir(tmp_path)
    folder = Path("resnet50_128")
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    model, _ = from_pretrained("resnet50_128")
    assert model.config == RELEASED["resnet50_128"].config
    for part in ("config.json", "model.safetensors", "checkpoints"):
        (folder / part).mkdir()
        with pytest.raises((InputError, IsADirectoryError), match="resnet50_128"):
            from_pretrained("resnet50_128")
        (folder / part).rmdir()


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
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/caches")
    assert cache_folder() == tmp_path / "caches" / "mixvpr_jax"
    monkeypatch.setenv("MIXVPR_HOME", "~/home")
    assert cache_folder() == tmp_path / "home"
    monkeypatch.setenv("MIXVPR_HOME", "gs://bucket/home")
    with pytest.raises(InputError, match="MIXVPR_HOME: expected a folder of this machine, found"):
        cache_folder()


def test_several_processes_use_a_name_for_the_first_time(home, monkeypatch, small_128):
    """All have fetched and converted it; those that come later take what is there."""
    fake_gdown(monkeypatch, small_128)
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


def test_a_folder_of_that_name_that_holds_no_model(home, monkeypatch, small_128):
    fake_gdown(monkeypatch, small_128)
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


class Website(http.server.ThreadingHTTPServer):
    """A stand-in of GitHub: path → content, or the number of bytes that it promises and fails."""

    def __init__(self):
        self.pages = {}
        super().__init__(("127.0.0.1", 0), Page)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.pages.get(self.path)
        if content is None:
            self.send_error(404)
            return
        promised, content = (
            (content, b"PK") if isinstance(content, int) else (len(content), content)
        )
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


TRANSFORMERS = {  # and the first names of their weights, as they are published
    "boq_dinov2_12288": ("backbone.dino.", "aggregator."),
    "dinov2_salad": ("backbone.model.", "aggregator."),
    "megaloc": ("backbone.model.", "aggregator.agg."),
}


@pytest.fixture
def github(monkeypatch):
    with Website() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        for name in ("eigenplaces_resnet50_128", "cosplace_resnet18_64", *TRANSFORMERS):
            path = f"/{RELEASED[name].file_name}"
            url = f"http://127.0.0.1:{site.server_port}{path}"
            monkeypatch.setitem(RELEASED, name, replace(RELEASED[name], url=url))
        yield site
        site.shutdown()
        thread.join()


def test_addresses_are_those_of_the_authors():
    urls = {name: released.url for name, released in RELEASED.items()}
    releases = "https://github.com/gmberton/{}/releases/download/v1.0/{}.pth"
    cosplace = releases.format("CosPlace", "ResNet152_32_cosplace")
    assert urls["cosplace_resnet152_32"] == cosplace
    eigenplaces = releases.format("EigenPlaces", "ResNet50_2048_eigenplaces")
    assert urls["eigenplaces_resnet50_2048"] == eigenplaces
    boq = "https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0/dinov2_12288.pth"
    assert urls["boq_dinov2_12288"] == boq
    salad = "https://github.com/serizba/salad/releases/download/v1.0.0/dino_salad.ckpt"
    assert urls["dinov2_salad"] == salad
    megaloc = "https://github.com/gmberton/MegaLoc/releases/download/v1.0/megaloc.torch"
    assert urls["megaloc"] == megaloc
    methods = [name.partition("_")[0] for name in urls]
    assert (methods.count("cosplace"), methods.count("eigenplaces")) == (26, 12)


@pytest.mark.parametrize("name", ["eigenplaces_resnet50_128", "cosplace_resnet18_64"])
def test_weights_of_github_equal_the_authors_network(name, home, github, tmp_path, capfd):
    released = RELEASED[name]
    torch.manual_seed(0)
    reference = CosPlaceNet(released.config.arch, released.config.descriptor_dim).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(reference.state_dict(), tmp_path / "checkpoint")
    content = (tmp_path / "checkpoint").read_bytes()
    github.pages[f"/{released.file_name}"] = content
    model, preprocess = from_pretrained(name)
    assert capfd.readouterr() == ("", "")  # a terminal alone sees the progress
    assert preprocess.image_size == (512, 512)
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(describe(model, images) - expected).max() < 1e-5
    github.pages.clear()
    from_pretrained(name)  # what was converted
    card = (home / name / "README.md").read_text()
    assert f"Converted from {released.url} (sha256 {hashlib.sha256(content).hexdigest()})." in card


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_of_github(name, home, github, tmp_path, monkeypatch):
    """On a small transformer under the name of the large one, projected to fewer values."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "dinov2_vitb14", ViTShape(2, 128, 2))
    released = RELEASED[name]
    if released.config.projection:
        released = replace(released, config=replace(released.config, projection=48))
        monkeypatch.setitem(RELEASED, name, released)
    model = create_model(released.config, seed=1)
    backbone, aggregator = TRANSFORMERS[name]
    state = {}
    for key, array in to_torch(get_weights(model)).items():
        key = key.replace("backbone.model.", backbone)
        if not key.startswith("aggregator.linear."):
            key = key.replace("aggregator.", aggregator)
        state[key] = torch.tensor(np.array(array))
    torch.save(state, tmp_path / "checkpoint")
    github.pages[f"/{released.file_name}"] = (tmp_path / "checkpoint").read_bytes()
    found, preprocess = from_pretrained(name)
    assert found.config == released.config
    filter = "bicubic" if "boq" in name else "bilinear"
    assert (preprocess.image_size, preprocess.interpolation) == ((322, 322), filter)
    images = np.random.default_rng(0).normal(size=(1, 140, 126, 3)).astype(np.float32)
    assert np.array_equal(describe(found, images), describe(model, images))
    assert f"Converted from {released.url}" in (home / name / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "HTTP Error 404: Not Found"), (1000, "2 of 1,000 bytes"), (b"<html>", "HTML page")],
)
def test_a_download_that_fails_tells_how_to_do_it_by_hand(content, found, home, github):
    released = RELEASED["cosplace_resnet18_64"]
    if content is not None:
        github.pages[f"/{released.file_name}"] = content
    with pytest.raises(InputError, match=found) as error:
        from_pretrained("cosplace_resnet18_64")
    file = home / released.file_name
    fetch, convert = str(error.value).split(" && ")
    assert shlex.split(fetch)[-6:] == f"curl -fL --create-dirs {released.url} -o {file}".split()
    folder = home / "cosplace_resnet18_64"
    assert shlex.split(convert) == f"mixvpr convert to-flax {file} {folder}".split()
    assert not list(home.iterdir())


def test_without_a_network(home, monkeypatch):
    released = replace(RELEASED["cosplace_resnet18_64"], url="http://127.0.0.1:1/a.pth")
    monkeypatch.setitem(RELEASED, "cosplace_resnet18_64", released)
    with pytest.raises(InputError, match="download http://127.0.0.1:1/a.pth, found: .*refused"):
        from_pretrained("cosplace_resnet18_64")
    assert not list(home.iterdir())
