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

from mixvpr_jax import cli
from mixvpr_jax.cli import COMPLETION
from mixvpr_jax.datasets.protocols import BENCHMARKS
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.models.backbones import RESNETS
from mixvpr_jax.released import RELEASED
from mixvpr_jax.training.config import RENAMED
from mixvpr_jax.training.recipes import list_recipes

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
README = (ROOT / "README.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
# commands of `mixvpr`, and scripts that stand for them: the words before the options
ROOMS = {
    "mixvpr train": ["train", "demo"],
    "mixvpr convert to-flax": ["convert", "to-flax"],
    "mixvpr convert to-torch": ["convert", "to-torch"],
    **{f"mixvpr {name}": [name] for name in cli.COMMANDS if name not in ("train", "convert")},
}
ROOMS |= {
    "train.py": ROOMS["mixvpr train"],
    "eval.py": ROOMS["mixvpr eval"],
    "convert.torch_to_flax": ROOMS["mixvpr convert to-flax"],
    "convert.flax_to_torch": ROOMS["mixvpr convert to-torch"],
}
# command: the function that tyro calls, or None where a function of the module calls it
COMMANDS = {
    **dict.fromkeys(ROOMS),
    "demo.draw": "draw",
    "examples.localize": "localize",
    "examples.loop_closure": "loop_closure",
    "mixvpr_jax.evaluation.export_index": "export_index",
    "mixvpr_jax.data.prepare": "command",
    "mixvpr_jax.training.show": None,
    **{f"benchmarks/{name}.py": "main" for name in ("descriptors", "train_step", "scaling")},
    **{f"benchmarks/{name}.py": "main" for name in ("input_pipeline", "evaluate", "memory")},
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
            if name in ROOMS:
                command, *words = ROOMS[name]
                cli.parse(command, [*words, "--help"], name)
            else:
                module = importlib.import_module(module)
                module.main() if main is None else tyro.cli(getattr(module, main))
    return set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", told.getvalue()))


@pytest.fixture(scope="module")
def options():
    return {name: options_of(name) for name in COMMANDS}


def commands_in(text):
    """Our commands in the shell blocks of a page: script, module or `mixvpr …`, and options."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"python (?:-m )?([\w./]+)(.*)", line)
            ours = found and (found[1].startswith(("mixvpr_jax", "convert")) or "/" not in found[1])
            if not ours:
                found = re.search(
                    r"(?:^|\s|')(mixvpr (?:convert )?[a-z-]+)(.*)", line.split(" #")[0]
                )
            if found:
                yield found[1], re.findall(r"(--[a-z][\w.-]*)", found[2].split(" #")[0])


def test_commands_have_the_options_that_pages_give_them(options):
    seen = set()
    for path in PAGES:
        for name, used in commands_in(path.read_text()):
            assert name in COMMANDS or not name.startswith("mixvpr "), f"{path.name}: {name}"
            if name in COMMANDS:
                seen.add(name)
                assert set(used) <= options[name] | {"--help"}, f"{path.name}: {name}"
    told = ("train", "eval", "describe", "pca", "pairs", "places", "export")
    told += ("convert to-flax", "convert to-torch")
    assert {f"mixvpr {name}" for name in told} <= seen
    assert {"mixvpr_jax.data.prepare", "mixvpr_jax.training.show"} <= seen


def test_scripts_are_the_installed_commands(options):
    for name in ("train.py", "eval.py", "convert.torch_to_flax", "convert.flax_to_torch"):
        [command] = [
            other for other, room in ROOMS.items() if room == ROOMS[name] and other != name
        ]
        assert options[command] == options[name]


@page
def test_options_that_are_named_exist(path, options):
    former = {f"--{name.replace('_', '-')}" for name in RENAMED}
    known = set().union(*options.values(), FOREIGN, former, {COMPLETION})
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


def test_pages_name_the_benchmarks_and_backbones():
    text = (ROOT / "docs" / "datasets.md").read_text()
    section = text[text.index("## What each name stands for") : text.index("**MSLS.**")]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == sorted(BENCHMARKS)
    section = MODELS[MODELS.index("- Backbones:") : MODELS.index("cut after stage")]
    spoken = re.sub(r"\s+", " ", section.replace(" and ", ", ")).removeprefix("- Backbones: ")
    spoken = spoken.rstrip(", ").replace("Wide-ResNet ", "wide_resnet").replace("ResNet ", "resnet")
    found = spoken.split(", ")
    full = {"34": "resnet34", "50": "resnet50", "101": "resnet101", "152": "resnet152"}
    full |= {"ResNeXt-50 32x4d": "resnext50_32x4d", "ResNeXt-101 32x8d": "resnext101_32x8d"}
    full |= {"wide_resnet50-2": "wide_resnet50_2", "101-2": "wide_resnet101_2"}
    assert sorted(full.get(name, name) for name in found) == sorted(RESNETS)


def test_figures_of_released_weights():
    rows = re.findall(r"^\| `(resnet50_\d+)` \| (\d+) \| [\d,]+ \| (.*) \|$", MODELS, re.MULTILINE)
    others = [
        name.replace("D", dim)
        for head in ("| name | D |\n", "| name | D | parameters |")
        for names, dims, *_ in table(MODELS, head)
        for name in re.findall(r"`(\w+)`", names)
        for dim in dims.split(", ")
    ]
    assert sorted([*(name for name, *_ in rows), *others]) == sorted(RELEASED)
    for name, size, recalls in rows:
        assert RELEASED[name].config.descriptor_dim == int(size)
        for protocol, cell in zip(
            ("pitts250k-test", "pitts30k-test", "msls-val"), recalls.split(" | "), strict=True
        ):
            [published] = [
                p for p in BENCHMARKS[protocol].published if p.method == f"MixVPR {size}"
            ]
            assert list(published.recall.values()) == [float(part) for part in cell.split(" / ")]
    section = README[README.index("## Evaluate") :]
    [(name, protocol)] = re.findall(r"--weights (\w+) --dataset ([\w-]+)", section)
    size = RELEASED[name].config.descriptor_dim
    [published] = [p for p in BENCHMARKS[protocol].published if p.method == f"MixVPR {size}"]
    headline = ", ".join(f"R@{k}: {percent:.1f}" for k, percent in published.recall.items())
    assert f"`{headline}`" in section


def table(text, head):
    """The cells of a table's rows; `head` begins its first line."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_design_names_each_room_once():
    text, package = (ROOT / "docs" / "design.md").read_text(), ROOT / "mixvpr_jax"
    rows = table(text, "| in `mixvpr_jax` |")
    there = [path.name for path in package.glob("*.py")]
    there += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert sorted(name.strip("`") for name, _ in rows) == sorted(there)
    for name, subject in rows:
        for module in re.findall(r"`([a-z_]+)`", subject) if name.endswith("/`") else ():
            assert (package / name.strip("`") / f"{module}.py").exists(), f"{name}: {module}"
    for names, _ in table(text, "| in a checkout |"):
        for name in re.findall(r"`([^`]+)`", names):
            assert (ROOT / name).exists(), name


def test_pages_of_training_name_what_there_is():
    text = (ROOT / "docs" / "train.md").read_text()
    recipes = {name.replace("resnet50_mixvpr_", "…_") for name in list_recipes()}
    named = set(re.findall(r"`([\w…]+)`", text[text.index("| recipe |") : text.index("## Data")]))
    assert {name.replace("resnet50_mixvpr_", "…_") for name in named} >= recipes
    for name in (*LOSSES, *MINERS):
        assert name in text, name


@pytest.fixture
def standing_in(weights, tmp_path, monkeypatch):
    """A folder to work in, where a small model stands in for the released one."""
    shutil.copytree(weights, tmp_path / "resnet50_4096")
    shutil.copy(GOLDEN / "street.jpg", tmp_path)
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_code_of_other_pages_runs(standing_in):
    """Python; export.md's runs in test_export.py, that of plug_ins.md in test_plugins.py."""
    with_code = {path.stem: blocks(path.read_text()) for path in PAGES if blocks(path.read_text())}
    assert with_code.keys() == {"README", "export", "flax", "models", "plug_ins", "robot", "train"}
    found = {}
    for block in (*with_code["flax"], *with_code["train"]):
        exec(block, found)
    assert found["descriptors"].shape == (1, 128)
    assert 0 < found["loss"] < 10
    assert found["updates"].keys() == {"batch_stats"}
    assert found["config"].epochs == 40


def test_code_of_the_robot_page_runs(standing_in, capsys):
    """Eight frames, twice; the page skips 300."""
    shutil.copytree("resnet50_4096", "my_model")
    frames = list(np.random.default_rng(0).integers(0, 256, (8, 60, 80, 3), np.uint8))
    drive, load, calibrate = blocks((ROOT / "docs" / "robot.md").read_text())
    names = {"camera": frames * 2}
    exec(drive.replace("skip_recent=300", "skip_recent=6"), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "frame 15: back at frame 7, score 1.000"
    exec(load, names)
    assert [match.frame for match in names["matches"][:2]] == [7, 15]  # of the last frame
    scores, right = np.array([0.9, 0.8, 0.7]), np.array([True, True, False])
    exec(calibrate, names | {"scores": scores, "right": right, "num_with_positives": 2})
    assert 0.7 < names["place_map"].threshold <= 0.8


def test_code_of_pages_runs(standing_in, tmp_path):
    """The blocks of Python, one after another; a small model stands in for the released one."""
    found = {"jax": jax}
    first, second = blocks(README + MODELS)
    exec(first, found)
    assert found["descriptors"].shape == (1, 128)
    assert found["descriptors"].dtype == np.float32
    assert np.linalg.norm(found["descriptors"]) == pytest.approx(1, abs=1e-6)
    exec(second, found)
    written = {path.name for path in (tmp_path / "my_model").iterdir()}
    assert written == {"model.safetensors", "config.json", "README.md"}
    assert set(found["variables"]) == {"params", "batch_stats"}
    [line] = re.findall(r"`(describe = .*)`", MODELS)
    exec(line, found)
    images = jax.ShapeDtypeStruct((1, 240, 320, 3), np.float32)
    assert jax.eval_shape(found["describe"], images).shape == (1, 256)
    norm, states = found["model"].backbone.bn1, []
    for switch in (lambda: None, found["model"].train, found["model"].eval):
        switch()
        states.append(norm.use_running_average)
    assert states == [True, False, True]  # evaluation mode from the start
