"""What README and docs say of names, options, files and figures is what the code knows."""

import contextlib
import importlib
import io
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from recipe import GOLDEN

from mixvpr_jax.datasets.protocols import BENCHMARKS
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.config import BACKBONES
from mixvpr_jax.released import RELEASED
from mixvpr_jax.training.recipes import list_recipes

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"]
README = (ROOT / "README.md").read_text()
# command: the function that tyro calls, or None where `main` calls it
COMMANDS = {
    "train.py": None,
    "eval.py": None,
    "convert.torch_to_flax": None,
    "convert.flax_to_torch": None,
    "demo.draw": "draw",
    "mixvpr_jax.evaluation.export_index": "export_index",
    "mixvpr_jax.data.prepare": None,
    "mixvpr_jax.training.show": None,
    **{f"benchmarks/{name}.py": "main" for name in ("descriptors", "train_step", "scaling")},
    **{f"benchmarks/{name}.py": "main" for name in ("input_pipeline", "evaluate")},
}
SCRIPTS = {  # which stand for words of `mixvpr`
    "train": ("training", ["demo"]),
    "eval": ("evaluation", []),
    "convert.torch_to_flax": ("conversion", ["to-flax"]),
    "convert.flax_to_torch": ("conversion", ["to-torch"]),
}
FOREIGN = {  # of gcloud, pip, docker, sha256sum, tensorboard, SLURM, XLA and other people's scripts
    *("--check", "--command", "--cpus-per-task", "--exclude-editable", "--gpus-per-node"),
    *("--logdir", "--nodes", "--ntasks-per-node", "--prediction", "--recursive", "--requeue"),
    *("--shm-size", "--signal", "--worker", "--xla", "--zone"),
}
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def options_of(name):
    """The options that a command's help lists."""
    told, main = io.StringIO(), COMMANDS[name]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told):
        patch.syspath_prepend(ROOT / "benchmarks")
        module = name.removeprefix("benchmarks/").removesuffix(".py")
        patch.setattr(sys, "argv", [name, "--help"])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            if module in SCRIPTS:
                room, words = SCRIPTS[module]
                command = importlib.import_module(f"mixvpr_jax.{room}.command")
                command.parse([*words, "--help"], name)
            else:
                module = importlib.import_module(module)
                module.main() if main is None else tyro.cli(getattr(module, main))
    return set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", told.getvalue()))


@pytest.fixture(scope="module")
def options():
    return {name: options_of(name) for name in COMMANDS}


def commands_in(text):
    """Our commands in the shell blocks of a page: the script or module, and its options."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"python (?:-m )?([\w./]+)(.*)", line)
            if found and (found[1].startswith(("mixvpr_jax", "convert")) or "/" not in found[1]):
                yield found[1], re.findall(r"(--[a-z][\w.-]*)", found[2].split(" #")[0])


def test_commands_have_the_options_that_pages_give_them(options):
    seen = set()
    for path in PAGES:
        for name, used in commands_in(path.read_text()):
            if name in COMMANDS:
                seen.add(name)
                assert set(used) <= options[name] | {"--help"}, f"{path.name}: {name}"
    assert {"train.py", "eval.py", "mixvpr_jax.data.prepare", "mixvpr_jax.training.show"} <= seen


@page
def test_options_that_are_named_exist(path, options):
    known = set().union(*options.values(), FOREIGN)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", path.read_text()))
    assert named <= known, sorted(named - known)


def slugs(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page
def test_links_and_paths_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not anchor or anchor in slugs(linked.read_text()), target
    for name in re.findall(r"`((?:tests|mixvpr_jax|benchmarks|configs|convert)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_readme_names_what_there_is():
    section = README[README.index("## Benchmarks") : README.index("## Any configuration")]
    listed = re.sub(r"\([^)]*\)", "", section.split("each from")[0].partition("\n\n")[2])
    assert sorted(re.findall(r"[a-z][\w-]+", listed)) == sorted(BENCHMARKS)
    section = README[README.index("- Backbones:") : README.index("cut after stage")]
    spoken = re.sub(r"\s+", " ", section.replace(" and ", ", ")).removeprefix("- Backbones: ")
    spoken = spoken.rstrip(", ").replace("Wide-ResNet ", "wide_resnet").replace("ResNet ", "resnet")
    found = spoken.split(", ")
    full = {"34": "resnet34", "50": "resnet50", "101": "resnet101", "152": "resnet152"}
    full |= {"ResNeXt-50 32x4d": "resnext50_32x4d", "ResNeXt-101 32x8d": "resnext101_32x8d"}
    full |= {"wide_resnet50-2": "wide_resnet50_2", "101-2": "wide_resnet101_2"}
    assert sorted(full.get(name, name) for name in found) == sorted(BACKBONES)


def test_figures_of_released_weights():
    rows = re.findall(r"^\| `(resnet50_\d+)` \| (\d+) \| [\d,]+ \| (.*) \|$", README, re.MULTILINE)
    assert {name for name, *_ in rows} == set(RELEASED)
    for name, size, recalls in rows:
        assert RELEASED[name].config.descriptor_dim == int(size)
        for protocol, cell in zip(
            ("pitts250k-test", "pitts30k-test", "msls-val"), recalls.split(" | "), strict=True
        ):
            [published] = [
                p for p in BENCHMARKS[protocol].published if p.method == f"MixVPR {size}"
            ]
            assert list(published.recall.values()) == [float(part) for part in cell.split(" / ")]


def test_pages_of_training_name_what_there_is():
    text = (ROOT / "docs" / "train.md").read_text()
    recipes = {name.replace("resnet50_mixvpr_", "…_") for name in list_recipes(ROOT / "configs")}
    named = set(re.findall(r"`([\w…]+)`", text[text.index("| recipe |") : text.index("## Data")]))
    assert {name.replace("resnet50_mixvpr_", "…_") for name in named} >= recipes
    for name in (*LOSSES, *MINERS):
        assert name in text, name


def test_readme_code_runs(weights, tmp_path, monkeypatch):
    """The blocks of Python, one after another; a small model stands in for the released one."""
    shutil.copytree(weights, tmp_path / "resnet50_4096")
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN / "street.jpg", tmp_path)
    found = {"jax": jax}
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(first, found)
    assert found["descriptors"].shape == (1, 128)
    assert found["descriptors"].dtype == np.float32
    assert np.linalg.norm(found["descriptors"]) == pytest.approx(1, abs=1e-6)
    exec(second, found)
    written = {path.name for path in (tmp_path / "my_model").iterdir()}
    assert written == {"model.safetensors", "config.json", "README.md"}
    assert set(found["variables"]) == {"params", "batch_stats"}
    [line] = re.findall(r"`(describe = .*)`", README)
    exec(line, found)
    images = jax.ShapeDtypeStruct((1, 240, 320, 3), np.float32)
    assert jax.eval_shape(found["describe"], images).shape == (1, 256)
    norm, states = found["model"].backbone.bn1, []
    for switch in (lambda: None, found["model"].train, found["model"].eval):
        switch()
        states.append(norm.use_running_average)
    assert states == [True, False, True]  # evaluation mode from the start
