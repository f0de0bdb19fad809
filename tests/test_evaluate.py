"""Benchmarks through eval.py: protocols, subsets, comparisons, kills."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmark_trees import msls_test_tree, msls_tree, pittsburgh_tree, set_counts, write_msls_lists
from folders import write_images
from PIL import ExifTags, Image
from runs import finish

from mixvpr_jax import InputError
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.describer import Describer
from mixvpr_jax.evaluation.evaluate import evaluate
from mixvpr_jax.evaluation.output import ALL_OUTPUTS, OUTPUTS
from mixvpr_jax.report import write_report

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(weights, tmp_path):
    def evaluated(dataset, data_dir, **options):
        usual = {"output": tmp_path / "out", "batch_size": 4, "latency_queries": 0}
        config = {"dataset": dataset, "data_dir": data_dir} | usual | options
        return evaluate(EvaluationConfig(str(weights), **config), write_report)

    return evaluated


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_benchmark_by_its_name(run, tmp_path):
    pittsburgh_tree(tmp_path / "Pittsburgh")
    with pytest.raises(InputError, match=r"expected 10,000 database images and 6,816 queries"):
        run("pitts30k-test", tmp_path)
    assert not (tmp_path / "out").exists()
    evaluation = run("pitts30k-test", tmp_path, allow_subset=True)
    found = results(tmp_path / "out")
    assert found["dataset"] == "pitts30k-test" and found["is_subset"]
    assert found["protocol"]["positive_radius_m"] == 25
    assert found["protocol"]["num_queries"] == 6816
    assert found["protocol"]["published"][0]["recall"] == {"1": 91.6, "5": 95.5, "10": 96.4}
    assert found["recall"] == {str(k): percent for k, percent in evaluation.recall.items()}
    low, high = found["recall_interval_95"]["1"]
    assert low <= found["recall"]["1"] <= high
    told = "\n".join(evaluation.data.describe())
    assert "pitts30k-test (a subset)" in told
    assert "published" not in told  # as that is of the whole


def test_the_whole_of_a_benchmark_is_no_subset(run, tmp_path, monkeypatch):
    pittsburgh_tree(tmp_path)
    evaluation = run("pitts30k-test", tmp_path, allow_subset=True)
    set_counts(monkeypatch, "pitts30k-test", *map(len, (evaluation.data.database,
                                                        evaluation.data.queries)))  # fmt: skip
    whole = run("pitts30k-test", tmp_path, overwrite=True)
    assert not whole.data.is_subset
    assert "published, MixVPR 4096: R@1: 91.6" in "\n".join(whole.data.describe())


@pytest.mark.parametrize("part", ["queries", "database"])
def test_a_benchmark_without_what_cannot_be_read_is_a_subset(run, tmp_path, monkeypatch, part):
    pittsburgh_tree(tmp_path)
    whole = run("pitts30k-test", tmp_path, allow_subset=True).data
    counts = {"database": len(whole.database), "queries": len(whole.queries)}
    set_counts(monkeypatch, "pitts30k-test", *counts.values())
    getattr(whole, part)[0].write_bytes(b"")
    evaluation = run("pitts30k-test", tmp_path, overwrite=True, skip_unreadable=True)
    found = results(tmp_path / "out")
    counts[part] -= 1
    assert found["is_subset"]
    assert (found["num_database"], found["num_queries"]) == tuple(counts.values())
    assert len(found["unreadable"]) == 1
    assert "published" not in "\n".join(evaluation.data.describe())
    report = (tmp_path / "out" / "report.html").read_text()
    assert '"is_subset":true' in report and "1 images left out" in report


def test_two_folders_without_what_cannot_be_read_are_no_benchmark(evaluate, labelled, tmp_path):
    min(labelled[1].iterdir()).write_bytes(b"")
    evaluation = evaluate(*labelled, skip_unreadable=True)
    found = results(tmp_path / "out")
    assert found["num_queries"] == 2 and len(found["unreadable"]) == 1 and not found["is_subset"]
    assert "subset" not in "\n".join(evaluation.data.describe())


def test_turned_images_are_counted(evaluate, labelled, tmp_path):
    evaluate(*labelled)
    assert results(tmp_path / "out")["num_turned"] == {"database": 0, "queries": 0}
    query = max(labelled[1].iterdir())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(query) as image:
        image.save(query, exif=exif)
    for _ in range(2):  # described, and from the cache
        evaluate(*labelled, overwrite=True)
        assert results(tmp_path / "out")["num_turned"] == {"database": 0, "queries": 1}
        report = (tmp_path / "out" / "report.html").read_text()
        assert "1 images, upright by their EXIF orientation" in report


class TestEarlierResults:
    def test_of_a_challenge_go_with_the_rest(self, run, evaluate, labelled, tmp_path):
        out = tmp_path / "out"
        msls_test_tree(tmp_path)
        run("msls-test", tmp_path, allow_subset=True)
        assert sorted(path.name for path in out.iterdir()) == sorted(ALL_OUTPUTS)
        for name in OUTPUTS:
            (out / name).unlink()
        with pytest.raises(InputError, match=r"no earlier output, found msls_test_predictions.c"):
            evaluate(*labelled)
        (out / "notes.txt").write_text("mine")
        evaluate(*labelled, overwrite=True)
        assert sorted(path.name for path in out.iterdir()) == sorted([*OUTPUTS, "notes.txt"])

    def test_stay_where_the_new_ones_fail(self, run, evaluate, labelled, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        msls_test_tree(tmp_path)
        run("msls-test", tmp_path, allow_subset=True)
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        monkeypatch.setattr("mixvpr_jax.evaluation.output.write_json", fail)
        with pytest.raises(InputError, match="expected room on the disk, found: No space"):
            evaluate(*labelled, overwrite=True)
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    def test_are_replaced_by_a_challenge_of_its_own(self, run, tmp_path):
        msls_test_tree(tmp_path)
        run("msls-test", tmp_path, allow_subset=True)
        file = tmp_path / "out" / "msls_test_predictions.csv"
        file.write_text("of another model")
        run("msls-test", tmp_path, allow_subset=True, overwrite=True)
        assert "another" not in file.read_text()


def test_folders_called_as_a_challenge_are_none(evaluate, labelled, tmp_path):
    town = shutil.move(labelled[0].parent, tmp_path / "msls-test")
    evaluate(Path(town) / "database", Path(town) / "queries")
    assert not (tmp_path / "out" / "msls_test_predictions.csv").exists()


def test_conditions(run, tmp_path):
    msls_tree(tmp_path)
    write_msls_lists(tmp_path)
    evaluation = run("msls-val", tmp_path, allow_subset=True)
    found = results(tmp_path / "out")["recall_by_condition"]
    assert "city" in found
    for labels in found.values():
        counts = [label["num_queries"] for label in labels.values()]
        assert sum(counts) == len(evaluation.data.queries)


def test_a_challenge_gets_its_prediction_file(run, tmp_path):
    msls_test_tree(tmp_path)
    evaluation = run("msls-test", tmp_path, allow_subset=True)
    assert evaluation.recall is None
    lines = (tmp_path / "out" / "msls_test_predictions.csv").read_text().splitlines()
    assert len(lines) == len(evaluation.data.queries)
    assert lines[0].split()[0] == evaluation.data.queries[0].stem


def test_images_are_listed_in_the_order_of_descriptors(evaluate, labelled, tmp_path):
    evaluation = evaluate(*labelled)
    for name in ("database", "query"):
        with (tmp_path / "out" / f"{name}_images.csv").open() as file:
            listed = [row["image"] for row in csv.DictReader(file)]
        paths = evaluation.data.database if name == "database" else evaluation.data.queries
        assert listed == [str(path) for path in paths]


def test_half_precision_and_faiss_and_approximate_neighbours(evaluate, labelled, tmp_path):
    pytest.importorskip("faiss")
    exact = evaluate(*labelled, output=tmp_path / "exact")
    assert results(tmp_path / "exact")["protocol"]["neighbours"] == "exact, L2"
    half = evaluate(*labelled, output=tmp_path / "half", storage="float16")
    stored = np.load(tmp_path / "half" / "database_descriptors.npy")
    assert stored.dtype == np.float16
    assert np.array_equal(half.predictions, exact.predictions)
    for index in ("approximate", "faiss"):
        other = evaluate(*labelled, output=tmp_path / index, index=index)
        assert np.array_equal(other.predictions, exact.predictions)
        assert np.allclose(other.distances, exact.distances, atol=1e-3)
    assert results(tmp_path / "faiss")["protocol"]["neighbours"] == "FAISS Flat, L2"


def test_best_positives_are_told(evaluate, labelled):
    best = evaluate(*labelled).best_positives
    assert best.indices.tolist() == [0, 1, -1]
    assert best.ranks.tolist() == [1, 1, 0]


def test_latency_by_stage(evaluate, labelled, tmp_path):
    evaluate(*labelled, latency_queries=2)
    taken = json.loads((tmp_path / "out" / "timing.json").read_text())["query_ms"]
    assert list(taken) == ["preprocessing", "model", "search"]
    assert all(0 < stage["median_ms"] <= stage["p95_ms"] for stage in taken.values())


def test_saliency_of_the_first_queries(evaluate, labelled):
    maps = evaluate(*labelled, saliency_queries=2).saliency
    assert sorted(maps) == [0, 1]
    assert maps[0][0].shape == (8, 8) and maps[0][0].max() == pytest.approx(1)


def test_another_process_fills_the_folder_meanwhile(evaluate, labelled, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    whole = Describer.describe

    def meanwhile(self, photos):
        (tmp_path / "out" / "results.json").write_text("theirs")
        return whole(self, photos)

    monkeypatch.setattr(Describer, "describe", meanwhile)
    with pytest.raises(InputError, match="expected no earlier output, found results.json"):
        evaluate(*labelled)
    assert [file.read_text() for file in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_second_evaluation_computes_nothing(evaluate, labelled, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
    first = evaluate(*labelled)

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("mixvpr_jax.evaluation.describer.compile_encoder", lambda *_: refuse)
    second = evaluate(*labelled, overwrite=True)
    assert np.array_equal(first.database_descriptors, second.database_descriptors)
    with pytest.raises(AssertionError, match="computed again"):
        evaluate(*labelled, overwrite=True, storage="float16")
    with pytest.raises(AssertionError, match="computed again"):
        evaluate(*labelled, overwrite=True, cache_gigabytes=0)


class TestCompare:
    def test_the_same_dataset(self, evaluate, labelled, tmp_path):
        evaluate(*labelled, output=tmp_path / "one")
        evaluate(*labelled, output=tmp_path / "two", compare=tmp_path / "one")
        assert (tmp_path / "two" / "report.html").exists()

    def test_results_of_earlier_versions(self, evaluate, labelled, tmp_path):
        """A folder called like a benchmark went by the benchmark's own name."""
        labelled[0].parent.rename(tmp_path / "nordland")
        pair = tmp_path / "nordland" / "database", tmp_path / "nordland" / "queries"
        evaluate(*pair, output=tmp_path / "one")
        file = tmp_path / "one" / "results.json"
        results = json.loads(file.read_text())
        assert results["dataset"] == "nordland-folder"
        file.write_text(json.dumps(results | {"dataset": "nordland"}))
        evaluate(*pair, output=tmp_path / "two", compare=tmp_path / "one")
        results["protocol"]["ground_truth"] = "Nordland_gt.npy"
        file.write_text(json.dumps(results | {"dataset": "nordland"}))
        with pytest.raises(InputError, match=r"expected results of nordland-folder .* of nordland"):
            evaluate(*pair, output=tmp_path / "three", compare=tmp_path / "one")

    def test_another_dataset(self, evaluate, labelled, tmp_path):
        evaluate(*labelled, output=tmp_path / "one")
        shutil.copytree(labelled[0].parent, tmp_path / "village")
        moved = tmp_path / "village" / "database", tmp_path / "village" / "queries"
        with pytest.raises(InputError, match=r"expected results of village .*, found some of town"):
            evaluate(*moved, output=tmp_path / "two", compare=tmp_path / "one")
        assert not (tmp_path / "two").exists()

    def test_the_same_name_and_other_images(self, evaluate, labelled, tmp_path):
        evaluate(*labelled, output=tmp_path / "one")
        shutil.copytree(labelled[0].parent, tmp_path / "elsewhere" / labelled[0].parent.name)
        moved = [tmp_path / "elsewhere" / labelled[0].parent.name / path.name for path in labelled]
        with pytest.raises(
            InputError,
            match=r"expected the queries of town@7 alone, by the n",
        ):
            evaluate(*moved, output=tmp_path / "two", compare=tmp_path / "one")

    def test_images_that_come_and_go(self, evaluate, labelled, tmp_path):
        evaluate(*labelled, output=tmp_path / "one")
        gone = max(labelled[0].iterdir())
        content = gone.read_bytes()
        gone.unlink()
        with pytest.raises(InputError, match=r"expected the database images of town@7 alone, by"):
            evaluate(*labelled, compare=tmp_path / "one")
        gone.write_bytes(b"")
        with pytest.raises(InputError, match=r"expected readable images of town@7, where they"):
            evaluate(*labelled, compare=tmp_path / "one", skip_unreadable=True)
        gone.write_bytes(content)
        write_images(labelled[1], ["@5@5@new@.jpg"])
        with pytest.raises(InputError, match=r"expected all queries of town@7, found no "):
            evaluate(*labelled, compare=tmp_path / "one")

    @pytest.mark.parametrize("content", ["", "[]", '{"dataset": 1}', "no json"])
    def test_no_results(self, evaluate, labelled, tmp_path, content):
        (tmp_path / "one").mkdir()
        with pytest.raises(InputError, match=r"results.json: expected .*, found no such file"):
            evaluate(*labelled, compare=tmp_path / "one")
        (tmp_path / "one" / "results.json").write_text(content)
        with pytest.raises(InputError, match=r"results.json: expected what mixvpr eval writes"):
            evaluate(*labelled, compare=tmp_path / "one")


def test_a_radius_without_positions(evaluate, tmp_path):
    folders = (write_images(tmp_path / name, ["a.jpg", "b.jpg"], seed=1) for name in "dq")
    with pytest.raises(InputError, match="positive_radius_m: expected positions in the names of b"):
        evaluate(*folders, positive_radius_m=25.0)
    assert not (tmp_path / "out").exists()


def test_more_neighbours_than_there_are_images(evaluate, labelled):
    with pytest.raises(InputError, match=r"recall_values: expected at most 3, .* found 50"):
        evaluate(*labelled, recall_values=(1, 50))
    assert evaluate(*labelled, recall_values=(2, 1)).recall.keys() == {1, 2}


def test_where_benchmarks_lie(run, tmp_path, monkeypatch):
    monkeypatch.delenv("MIXVPR_DATA", raising=False)
    with pytest.raises(InputError, match=r"the folder of pitts30k-test; give --data-dir DIR, or s"):
        run("pitts30k-test", None)
    pittsburgh_tree(tmp_path / "Pittsburgh")
    monkeypatch.setenv("MIXVPR_DATA", str(tmp_path))
    assert run("pitts30k-test", None, allow_subset=True).data.protocol.name == "pitts30k-test"
    with pytest.raises(InputError, match=r"dataset: unknown name 'pitts30k'; closest: pitts"):
        run("pitts30k", tmp_path, overwrite=True)


def test_killed_at_any_point_and_run_again(weights, tmp_path):
    """The same bytes in results.json as without the kill."""
    write_images(tmp_path / "town" / "database", [f"@{100 * i}@0@.jpg" for i in range(40)], seed=1)
    write_images(tmp_path / "town" / "queries", [f"@{100 * i}@5@.jpg" for i in range(24)], seed=1)

    def start(home, out):
        arguments = ["--weights", weights, "--batch-size", "8", "--latency-queries", "0"]
        for name in ("database", "queries"):
            arguments += [f"--{name}", tmp_path / "town" / name]
        return subprocess.Popen(
            [sys.executable, "eval.py", *map(str, arguments), "--output", str(out)],
            cwd=ROOT,
            env=os.environ | {"MIXVPR_HOME": str(home), "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    begun = time.monotonic()
    whole = start(tmp_path / "home", tmp_path / "whole")
    assert finish(whole)[0] == 0
    taken = time.monotonic() - begun
    expected = (tmp_path / "whole" / "results.json").read_bytes()
    assert re.search(rb'"1": \d', expected)
    for share in (0.5, 0.75, 0.9):
        killed = start(tmp_path / "other", tmp_path / "out")
        time.sleep(share * taken)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)  # where a kill came too late
    again = start(tmp_path / "other", tmp_path / "out")
    assert finish(again)[0] == 0
    assert (tmp_path / "out" / "results.json").read_bytes() == expected
