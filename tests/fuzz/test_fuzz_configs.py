"""Command lines of train.py and eval.py: a configuration, or one clear error."""

import copy
import io
import json
import sys
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import numpy as np
import pytest
import safetensors.numpy
from breaking import broken
from fuzzing import allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st

import mixvpr_jax.evaluation.evaluate as evaluation
from mixvpr_jax import distributed
from mixvpr_jax.cli import parse
from mixvpr_jax.errors import run_command
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.models.config import (
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
)
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.processes import ProcessConfig
from mixvpr_jax.training import command as train_command
from mixvpr_jax.training.config import TrainConfig

VALUES = [
    "",
    "0",
    "1",
    "-1",
    "2",
    "4",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "None",
    "True",
    "False",
    "x",
]
VALUES += [
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 400,
    "1_0",
    "１",
    "0x10",
    "()",
    "[]",
    "{}",
    "-",
    "--",
    "sgd",
]
VALUES += [
    "resnet18",
    "MultiSimilarityLoss",
    "by-city",
    "\udce9",
    "a\nb",
    "\x1b[2J",
    "[red]x[/]",
    "~",
    "/",
]
VALUES += ["../" * 1000, "x" * 5000, "a\0b", "--help", "-h", "--workdir", "aggregator:ge-m-config"]


def flags(cls, prefix=""):
    """The options that a configuration has on a command line."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        name = f"{prefix}{field.name}".replace("_", "-")
        if is_dataclass(hints[field.name]):
            yield from flags(hints[field.name], f"{name}.")
        yield f"--{name}"
        if hints[field.name] is bool:
            *way, last = name.split(".")
            yield "--" + ".".join([*way, f"no-{last}"])


def command_lines(known):
    word = st.sampled_from(VALUES) | st.text(max_size=6)
    flag = st.sampled_from(known) | word.map("--{}".format)
    option = st.tuples(flag, st.lists(word, max_size=2)).map(lambda pair: [pair[0], *pair[1]])
    glued = st.tuples(flag, word).map(lambda pair: ["=".join(pair)])
    return st.lists(option | glued, max_size=4).map(
        lambda parts: [word for part in parts for word in part]
    )


class Parsed(Exception):
    """Everything was understood: what would follow is the run itself."""


def outcome(command, arguments, monkeypatch):
    """What a command makes of its line: a configuration, or its exit status and its last words."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            run_command(lambda: parse(command, arguments, "command"))
        except Parsed as parsed:
            return parsed.args[0], None
        except SystemExit as end:
            return end.code, err.buffer.getvalue().decode()
    return 0, ""


def require_config_or_error(command, arguments, monkeypatch):
    found, words = outcome(command, arguments, monkeypatch)
    if words is None:
        return found
    assert found in (0, 2), f"exit status {found}"
    if found == 2:
        line = words.startswith("error: ") and words.count("\n") == 1
        assert line or words.startswith("╭─"), words  # of tyro, with what is near to it
    return None


@pytest.fixture(scope="module")
def patched():
    """Neither command waits for other processes, or goes on to its run."""

    def train(config, workdir, profile_steps, command):
        raise Parsed(config)

    def evaluate(config, write_report):
        raise Parsed(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "joined", lambda processes, training: nullcontext())
        patch.setattr("mixvpr_jax.programs.keep_memory", lambda: None)
        patch.setattr(train_command, "train_and_tell", train)
        patch.setattr(evaluation, "evaluate", evaluate)
        yield patch


@campaign(60)
@given(command_lines(["--workdir", "--profile-steps", *flags(TrainConfig), *flags(ProcessConfig)]))
def test_train(patched, arguments):
    config = require_config_or_error("train", ["demo", "--workdir", "x", *arguments], patched)
    if config is not None:
        json.dumps(config.to_dict())


@campaign(60)
@given(command_lines([*flags(EvaluationConfig), *flags(ProcessConfig)]))
def test_eval(patched, arguments):
    needed = [f"--{name}" for name in ("weights", "database", "queries", "output")]
    given_ones = [word for name in needed for word in (name, "x")]
    require_config_or_error("eval", [*given_ones, *arguments], patched)


@campaign(60)
@given(st.sampled_from(VALUES) | st.text(max_size=20))
def test_recipes(patched, name):
    require_config_or_error("train", [name, "--workdir", "x"], patched)


NUMBERS = [0, 1, -1, 4, 64, 10**4, 10**9, 10**15, 10**400, 0.1, 1.5, 1e300]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
JSON = st.recursive(
    st.sampled_from(NUMBERS)
    | st.none() | st.booleans() | st.sampled_from(("GeM", "CosPlace", "ConvAP", "a\nb", "float64")),
    lambda value: st.lists(value, max_size=3),
)  # fmt: skip
STORED = [
    ModelConfig("resnet18", (3, 4), aggregator, (64, 64)).to_dict()
    for aggregator in (MixVPRConfig(4, 1), ConvAPConfig(4), CosPlaceConfig(4), GeMConfig(), None)
]


@st.composite
def stored(draw):
    """A model's config.json: another value here and there, or no JSON at all."""
    config = copy.deepcopy(draw(st.sampled_from(STORED)))
    for part in (config, config["aggregator"] or {}):
        for name in draw(st.lists(st.sampled_from([*part, "other"]), max_size=2)):
            part[name] = draw(JSON)
    content = json.dumps(config).encode()
    return draw(broken([content, b"[" * 9_000])) if draw(st.integers(0, 4)) == 0 else content


@pytest.fixture(scope="module")
def read_model(tmp_path_factory):
    """The line that a model of another configuration than its weights is refused with."""
    folder = tmp_path_factory.mktemp("model")
    safetensors.numpy.save_file({"backbone.bn1.mean": np.zeros(3)}, folder / "model.safetensors")

    def read(config):
        (folder / "config.json").write_bytes(config)
        return line_of(from_pretrained, folder, memory=allowed(config, ".json"), inside=folder)

    return read


SEEDS = kept_seeds(".json")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(read_model, name):
    assert read_model(SEEDS[name])


@campaign(60)
@given(stored())
def test_stored_models(read_model, config):
    assert read_model(config)
