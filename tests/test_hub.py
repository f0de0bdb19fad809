"""Models on the Hugging Face Hub, through its own library and a stand-in of its server."""

import json
import logging
import os
import subprocess
import sys
import threading

import huggingface_hub
import numpy as np
import pytest
from hub_server import TOKEN, Hub
from huggingface_hub import ModelCard
from small_model import SMALL

from mixvpr_jax import (
    GeMConfig,
    InputError,
    ModelConfig,
    create_model,
    from_pretrained,
    save_pretrained,
)
from mixvpr_jax.cli import parse
from mixvpr_jax.conversion import get_weights, weights_hash, write_checkpoint
from mixvpr_jax.hub import parse_address
from mixvpr_jax.push import push, stage

# The library's own call of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "someone/mixvpr"
ADDRESS = f"hf://{NAME}"
RESULTS = {
    "dataset": "city",
    "protocol": {"positives": "database images within 25 m"},
    "num_database": 1200,
    "num_queries": 40,
    "recall": {"1": 87.5, "5": 95.0},
    "weights": "model",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(model, tmp_path):
    save_pretrained(model, tmp_path / "model")
    return tmp_path / "model"


def kernel(model):
    return model.backbone.conv1.kernel[...]


def test_a_model_is_pushed_in_one_commit_and_fetched_again(hub, model, folder, photos, capsys):
    parse("push", [str(folder), ADDRESS, "--private"], "mixvpr push")
    (_, before), (commit, files) = hub.repositories[NAME]
    assert before.keys() == {".gitattributes"}
    assert files.keys() - before.keys() == {"config.json", "model.safetensors", "README.md"}
    assert f"/{NAME}/commit/{commit}" in capsys.readouterr().out
    loaded, preprocess = from_pretrained(ADDRESS)
    assert loaded.config == SMALL
    assert np.array_equal(loaded(preprocess(photos)), model(preprocess(photos)))


def test_revisions(hub, model, folder):
    push(str(folder), ADDRESS)
    first = hub.repositories[NAME][-1][0]
    save_pretrained(create_model(SMALL, seed=8), folder)
    push(str(folder), ADDRESS)
    assert np.array_equal(kernel(from_pretrained(f"{ADDRESS}@{first}")[0]), kernel(model))
    assert not np.array_equal(kernel(from_pretrained(ADDRESS)[0]), kernel(model))
    with pytest.raises(InputError, match=f"{ADDRESS}@v9: expected to fetch it .* found: .*v9"):
        from_pretrained(f"{ADDRESS}@v9")


def test_what_was_fetched_serves_where_the_hub_is_out_of_reach(hub, folder, monkeypatch, caplog):
    push(str(folder), ADDRESS)
    from_pretrained(ADDRESS)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING, "mixvpr_jax"):
        from_pretrained(ADDRESS)
    commit = hub.repositories[NAME][-1][0]
    assert f"fetched earlier, commit {commit[:7]}" in caplog.messages[-1]
    with pytest.raises(InputError, match="hf://someone/else: expected to fetch it from the"):
        from_pretrained("hf://someone/else")
    caplog.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", None)  # older versions have none
    from_pretrained(ADDRESS)
    assert not [record for record in caplog.records if record.name.startswith("mixvpr_jax")]
    with pytest.raises(InputError, match="hf://someone/else: .* traffic has been disabled"):
        from_pretrained("hf://someone/else")


def test_a_slash_at_the_end():
    assert parse_address("hf://a/b/") == ("a/b", None)
    assert parse_address("hf://a/b@refs/pr/1/") == ("a/b", "refs/pr/1")


def test_addresses_and_repositories_that_hold_no_model(hub, monkeypatch):
    hub.commit("someone/texts", {"README.md": b"", "pytorch_model.bin": b""})
    with pytest.raises(InputError, match="found no config.json and no model.safetens.*; .*convert"):
        from_pretrained("hf://someone/texts")
    with pytest.raises(InputError, match="hf://someone/else: .*Repository Not Found for url"):
        from_pretrained("hf://someone/else")
    for wrong in ("hf://mixvpr", "hf://a/b/c", "hf://a/b@", "hf://a b/c"):
        with pytest.raises(InputError, match="expected hf://organisation/repository or …@revision"):
            from_pretrained(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'mixvpr-jax\[hub\]'"):
        from_pretrained(ADDRESS)


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/someone/some-model.v2",
        "http://hf.co/someone/some-model.v2/",
        "huggingface.co/someone/some-model.v2/tree/main",
        "someone/some-model.v2",
    ],
)
def test_an_address_by_another_name(name, model):
    for wrong in (from_pretrained, parse_address):
        with pytest.raises(InputError, match="; on the hub: hf://someone/some-model.v2$"):
            wrong(name)


def test_another_model_is_replaced_only_where_asked(hub, folder):
    hub.commit(NAME, {"config.json": b"{}", "pytorch_model.bin": b"theirs"})
    with pytest.raises(InputError, match="found another config.json; .* --overwrite"):
        push(str(folder), ADDRESS)
    hub.commit("someone/files", {"pytorch_model.bin": b"theirs"})
    with pytest.raises(InputError, match="found pytorch_model.bin; .* --overwrite"):
        push(str(folder), "hf://someone/files")
    assert len(hub.repositories[NAME]) == len(hub.repositories["someone/files"]) == 1
    push(str(folder), ADDRESS, overwrite=True)
    from_pretrained(ADDRESS)


def test_a_push_that_fails_changes_nothing(hub, folder, monkeypatch):
    push(str(folder), ADDRESS)
    commits = list(hub.repositories[NAME])
    hub.broken = True
    with pytest.raises(InputError, match=f"{ADDRESS}: expected to write .* a commit has happened"):
        push(str(folder), ADDRESS, overwrite=True)
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(InputError, match="401 .*; hf auth login with a token that may write"):
        push(str(folder), ADDRESS)
    (folder / "model.safetensors").write_bytes(b"PK")
    with pytest.raises(InputError, match="model.safetensors: expected a whole safetensors file"):
        push(str(folder), ADDRESS)
    assert hub.repositories[NAME] == commits


def test_a_checkpoint_is_converted_on_the_way(hub, model, tmp_path, capsys):
    write_checkpoint(model, tmp_path / "best.ckpt")
    hint = "push has no such option: convert it first with mixvpr convert to-flax"
    with pytest.raises(InputError, match=f"feature map: 48 positions are no square.*; {hint}"):
        push(str(tmp_path / "best.ckpt"), ADDRESS)
    square = create_model(type(SMALL)("resnet18", (3, 4), SMALL.aggregator, (64, 64)))
    write_checkpoint(square, tmp_path / "best.ckpt")
    push(str(tmp_path / "best.ckpt"), ADDRESS)
    assert np.array_equal(kernel(from_pretrained(ADDRESS)[0]), kernel(square))
    told = capsys.readouterr().out
    assert "note: images taken as 64x64, the largest with a map of 8x8" in told
    assert f"note: {hint}\nwritten: " in told
    card = hub.repositories[NAME][-1][1]["README.md"].decode()
    assert "Converted from best.ckpt (sha256 " in card


def test_what_no_option_mends_is_told_without_the_hint(tmp_path):
    (tmp_path / "broken.ckpt").write_bytes(b"none")
    with pytest.raises(InputError, match="expected a PyTorch checkpoint") as error:
        stage(str(tmp_path / "broken.ckpt"), tmp_path)
    assert "convert it first" not in str(error.value)


def test_a_name_in_another_encoding(tmp_path):
    named = tmp_path / os.fsdecode(b"caf\xe9.ckpt")
    write_checkpoint(create_model(ModelConfig("resnet18", (3, 4), GeMConfig(), (64, 64))), named)
    stage(str(named), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert r"Converted from caf\udce9.ckpt (sha256 " in card


def test_the_card_tells_recall_of_these_weights_alone(hub, model, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").write_text("query,rank,prediction,descriptor_distance,correct\n")
    results = {**RESULTS, "weights_sha256": weights_hash(get_weights(model))}
    for recall in (50.0, 87.5):  # an earlier table is replaced
        results["recall"]["1"] = recall
        (out / "results.json").write_text(json.dumps(results))
        push(str(folder), ADDRESS, results=(str(out),))
        content = hub.repositories[NAME][-1][1]["README.md"].decode()
        (folder / "README.md").write_text(content)
    card = ModelCard(content)
    row = "| city | database images within 25 m | 40 in 1,200 | R@1 87.5 / R@5 95.0 |"
    assert content.count("| city |") == content.count(row) == 1
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told == {"recall@1": 87.5, "recall@5": 95.0}
    assert card.data.model_name == "resnet18, MixVPR"
    same, early = model.config.to_dict(), model.config.to_dict()
    del early["interpolation"]
    for known in (same, early, {**same, "dtype": "bfloat16"}):
        (out / "results.json").write_text(json.dumps({**results, "model": known}))
        push(str(folder), ADDRESS, results=(str(out),))
    for wrong in (b"caf\xe9", b"---\nlicense: [mit\n---\n", b"---\n- mit\n---\n"):
        (folder / "README.md").write_bytes(wrong)
        with pytest.raises(InputError, match="README.md: expected a model card in UTF-8 with YAML"):
            push(str(folder), ADDRESS, results=(str(out),))
    (out / "results.json").write_text(json.dumps({**results, "weights_sha256": "of others"}))
    with pytest.raises(InputError, match="out: expected results of .*, found those of other weigh"):
        push(str(folder), ADDRESS, results=(str(out),))
    mixers = {**same["aggregator"], "mlp_ratio": 1.25}
    for other in ({"interpolation": "bicubic"}, {"image_size": [33, 50]}, {"aggregator": mixers}):
        (out / "results.json").write_text(json.dumps({**results, "model": {**same, **other}}))
        with pytest.raises(InputError) as raised:
            push(str(folder), ADDRESS, results=(str(out),))
        assert f"found those of the same weights with {other}; evaluate" in str(raised.value)
    (out / "results.json").write_text(json.dumps({**results, "recall": None}))
    with pytest.raises(InputError, match="expected results with recall, found none"):
        push(str(folder), ADDRESS, results=(str(out),))


def test_the_card_says_what_the_model_is(model, tmp_path):
    training = {"epochs": 3, "data": {"folders": ["/home/me/GSV-Cities"]}, "loss": "CircleLoss"}
    save_pretrained(model, tmp_path, origin="Ours.", training=training)
    card = ModelCard((tmp_path / "README.md").read_text())
    assert card.data.library_name == "mixvpr-jax"
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.license == "unknown"
    assert "visual-place-recognition" in card.data.tags
    for told in (
        "Ours.",
        "16 values",
        "48x64",
        "bilinear",
        '"loss": "CircleLoss"',
        "@inproceedings",
    ):
        assert told in card.text, told
    headings = ("Preprocessing", "Training", "Limits", "Parity", "Licence", "Citation")
    assert [f"## {name}\n" in card.text for name in headings] == [True] * 6
    assert "GSV-Cities" in card.text
    assert "/home/me" not in card.text


def test_offline_as_a_user_sets_it(hub, folder, tmp_path):
    """HF_HUB_OFFLINE counts from the library's import on, so in a process of its own."""
    code = "import sys; from mixvpr_jax.cli import main; main()"
    words = ["convert", "to-torch", ADDRESS, str(tmp_path / "a.safetensors")]
    variables = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, *words]
    result = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: {ADDRESS}: expected to fetch it from the hub, found: ")
    assert result.stderr.count("\n") == 1
