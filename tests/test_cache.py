"""What the descriptor cache knows images by, what it keeps, and what it removes."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from folders import write_images

from mixvpr_jax.conversion import weights_hash
from mixvpr_jax.evaluation import cache as evaluation_cache
from mixvpr_jax.evaluation.cache import (
    MARK,
    SOURCES,
    DescriptorCache,
    Part,
    code_hash,
    content_key,
    prune,
)


def test_the_key_is_of_the_content(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    paths = sorted(tmp_path.iterdir())
    keys = {content_key("weights", paths, {"batch": 2})}
    assert content_key("weights", list(paths), {"batch": 2}) in keys
    keys.add(content_key("others", paths, {"batch": 2}))
    keys.add(content_key("weights", paths[::-1], {"batch": 2}))
    keys.add(content_key("weights", paths[:1], {"batch": 2}))
    os.utime(paths[0], (5, 5))
    keys.add(content_key("weights", paths, {"batch": 2}))
    keys.add(content_key("weights", paths, {"batch": 1}))
    assert len(keys) == 6


@pytest.mark.parametrize("target", ["nothing", "c.jpg", None])
def test_an_image_that_is_not_there(tmp_path, target):
    """Reading it says so, or leaves it out; a key tells when it comes."""
    path = tmp_path / "c.jpg"
    if target:
        path.symlink_to(target)
    absent = content_key("weights", [path], {})
    assert content_key("weights", [path], {}) == absent
    path.unlink(missing_ok=True)
    write_images(tmp_path, ["c.jpg"])
    assert content_key("weights", [path], {}) != absent


def in_place(path, other):
    path.write_bytes(other.read_bytes())


def by_renaming(path, other):
    other.rename(path)


def by_a_link_elsewhere(path, other):
    path.unlink()
    path.symlink_to(other)


def by_a_hard_link(path, other):
    path.unlink()
    path.hardlink_to(other)


def by_moving_its_folder(path, other):
    path.parent.rename(path.parent.with_name("old"))
    other.parent.rename(path.parent)


@pytest.mark.parametrize(
    "replace",
    [in_place, by_renaming, by_a_link_elsewhere, by_a_hard_link, by_moving_its_folder],
)
@pytest.mark.parametrize("seconds", [10**9, 10**10])  # long ago; in the future
def test_another_file_of_the_same_path_size_and_time(tmp_path, replace, seconds):
    """As of an archive, or of rsync, which keep the times."""
    for folder, content in (("here", b"one"), ("new", b"two")):
        path = tmp_path / folder / "photo.bmp"
        path.parent.mkdir()
        path.write_bytes(content)
        os.utime(path, (seconds, seconds))
    path = tmp_path / "here" / "photo.bmp"
    before = content_key("weights", [path], {})
    replace(path, tmp_path / "new" / "photo.bmp")
    os.utime(path, (seconds, seconds))
    assert path.read_bytes() == b"two" and path.stat().st_mtime == seconds
    assert content_key("weights", [path], {}) != before


@pytest.mark.parametrize("field", ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"])
def test_each_of_what_tells_files_apart(tmp_path, monkeypatch, field):
    """On disks of coarse times, or none of changes, the others must do."""
    status = dict.fromkeys(("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino"), 12)
    monkeypatch.setattr(type(tmp_path), "stat", lambda _: SimpleNamespace(**status))
    before = content_key("weights", [tmp_path / "a"], {})
    assert content_key("weights", [tmp_path / "a"], {}) == before
    status[field] = 13
    assert content_key("weights", [tmp_path / "a"], {}) != before


def test_the_hash_of_weights():
    weights = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    swapped = dict(reversed(weights.items()))
    assert weights_hash(weights) == weights_hash(swapped)
    for name, array in (("a", np.zeros((3, 2), np.float32)), ("b", np.zeros(4, np.float32))):
        assert weights_hash(weights | {name: array}) != weights_hash(weights)


@pytest.mark.parametrize("source", [*SOURCES[:4], "models/mixvpr.py", "export/graph.py"])
def test_the_hash_of_the_code(tmp_path, monkeypatch, source):
    copy = shutil.copytree(Path(evaluation_cache.__file__).parents[1], tmp_path / "copy")
    monkeypatch.setattr(evaluation_cache, "files", lambda _: copy)
    assert code_hash.__wrapped__() == code_hash()
    (copy / "report" / "page.py").write_text("shows descriptors")
    assert code_hash.__wrapped__() == code_hash()
    (copy / source).write_text((copy / source).read_text() + "# mended\n")
    assert code_hash.__wrapped__() != code_hash()


def kept(folder, size=250):
    part = Part(np.zeros((1, size)), np.array([""]), np.array([False]))
    DescriptorCache(folder).save(slice(0, 1), part)
    return folder


def test_what_was_used_last_stays(tmp_path):
    for age, name in enumerate("abc"):
        kept(tmp_path / (32 * name))
        os.utime(tmp_path / (32 * name), (1000 - age, 1000 - age))
    size = sum(file.stat().st_size for file in (tmp_path / (32 * "a")).iterdir())
    DescriptorCache(tmp_path / (32 * "c"))  # is used again
    prune(tmp_path, 2.5 * size)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "c"]
    prune(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    prune(tmp_path / "nothing", 0)


def test_only_what_the_cache_wrote_is_removed(tmp_path):
    key, *others = (letter * 32 for letter in "abcdef")
    (kept(tmp_path / key) / ".00000001-00000002.npz.77.partial").write_bytes(b"of a kill")
    (tmp_path / key / f".00000001-00000002.npz.{'0f' * 8}.partial").mkdir()
    (tmp_path / key / f".00000001-00000002.npz.{'0f' * 8}.partial" / "lock").touch()
    (kept(tmp_path / others[0]) / MARK).unlink()  # of a version that left no mark
    (kept(tmp_path / others[1]) / "thesis.txt").write_text("mine")
    (kept(tmp_path / others[2]) / MARK).unlink()
    (tmp_path / others[2] / "00000000-00000001.npz.bak").write_text("mine")
    (tmp_path / others[3]).mkdir()
    (tmp_path / others[4]).symlink_to(kept(tmp_path / "elsewhere"), target_is_directory=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "00000000-00000001.npz").write_bytes(b"mine")
    (tmp_path / (32 * "9")).write_text("a file of mine")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    prune(tmp_path, 0)
    gone = before - {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert {path.parts[0] for path in gone} == {key, *others[:2]}
    assert [path.name for path in (tmp_path / others[1]).iterdir()] == ["thesis.txt"]
    assert not (tmp_path / key).exists() and not (tmp_path / others[0]).exists()


def test_what_is_not_the_caches_does_not_count(tmp_path):
    kept(tmp_path / (32 * "a"))
    (tmp_path / (32 * "a") / "large").write_bytes(bytes(10**6))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "large").write_bytes(bytes(10**6))
    prune(tmp_path, 10**5)
    assert (tmp_path / (32 * "a") / "00000000-00000001.npz").exists()


def of_the_cache(caplog):
    """What it warned of."""
    name = "mixvpr_jax.evaluation.cache"
    return [record.getMessage() for record in caplog.records if record.name == name]


class TestOfAnEvaluation:
    @pytest.fixture
    def computed_again(self, evaluate, labelled, tmp_path, monkeypatch):
        """Evaluates once; then says whether another evaluation computes any descriptor."""
        monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
        evaluate(*labelled)

        def refuse(*_):
            raise AssertionError("computed again")

        monkeypatch.setattr("mixvpr_jax.evaluation.describer.compile_encoder", lambda *_: refuse)

        def again(**options):
            try:
                evaluate(*labelled, overwrite=True, **options)
            except AssertionError as error:
                assert str(error) == "computed again"
                return True
            return False

        return again

    def test_what_descriptors_depend_on(self, computed_again, weights, tmp_path):
        assert not computed_again()
        assert computed_again(batch_size=1)
        assert computed_again(dtype="bfloat16")
        assert computed_again(storage="float16")
        assert not computed_again(recall_values=(1,), latency_queries=0, positive_radius_m=3)

    def test_code_that_was_mended(self, computed_again, monkeypatch):
        assert not computed_again()
        monkeypatch.setattr("mixvpr_jax.evaluation.describer.code_hash", lambda: "of the mended")
        assert computed_again()

    @pytest.mark.parametrize("library", ["jax", "onnxruntime"])
    def test_another_version_of_the_engine(
        self, evaluate, labelled, tmp_path, monkeypatch, library
    ):
        monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
        kept = tmp_path / "home" / "descriptors"
        for version, count in (("1", 2), ("1", 2), ("2", 4)):  # of the database and the queries
            monkeypatch.setattr(f"{library}.__version__", version)
            evaluate(*labelled, overwrite=True, engine=library)
            assert len(list(kept.iterdir())) == count

    def test_the_same_weights_of_another_configuration(self, computed_again, weights, tmp_path):
        other = shutil.copytree(weights, tmp_path / "other")
        assert not computed_again(weights=str(other))
        config = json.loads((other / "config.json").read_text())
        config["image_size"] = [96, 64]
        (other / "config.json").write_text(json.dumps(config))
        assert computed_again(weights=str(other))

    def test_another_version_of_the_data_over_the_old_one(self, evaluate, tmp_path, monkeypatch):
        monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
        names = [f"{index}.bmp" for index in range(3)]
        write_images(tmp_path / "d", names)
        queries = write_images(tmp_path / "q", ["0.png", "1.png", "2.png"])
        folder = tmp_path / "d"
        size = max(path.stat().st_size for path in folder.iterdir())
        contents = [path.read_bytes().ljust(size, b"\0") for path in sorted(folder.iterdir())]
        for order in ([0, 1, 2], [2, 0, 1]):
            for name, index in zip(names, order, strict=True):
                (folder / name).unlink()
                (folder / name).write_bytes(contents[index])
                os.utime(folder / name, (10**9, 10**9))
            kept = evaluate(folder, queries, overwrite=True).predictions[:, 0].tolist()
            fresh = evaluate(folder, queries, overwrite=True, cache_gigabytes=0)
            assert kept == fresh.predictions[:, 0].tolist() == [order.index(i) for i in range(3)]

    @pytest.mark.parametrize("home", ["/proc/nope", "a file", "a folder in the way"])
    def test_a_home_that_cannot_be_used(
        self, evaluate, labelled, tmp_path, monkeypatch, caplog, home
    ):
        place = tmp_path / home  # an absolute path stays itself
        if home == "a file":
            place.write_text("")
        elif home != "/proc/nope":
            place.mkdir()
            (place / "descriptors").write_text("")
        monkeypatch.setenv("MIXVPR_HOME", str(place))
        assert evaluate(*labelled).recall[1] == pytest.approx(200 / 3)
        (warning,) = of_the_cache(caplog)
        assert "MIXVPR_HOME" in warning and "--cache-gigabytes 0" in warning
        evaluate(*labelled, overwrite=True, cache_gigabytes=0)
        assert len(of_the_cache(caplog)) == 1

    def test_no_home_at_all(self, evaluate, labelled, tmp_path, monkeypatch, caplog):
        def no_home():
            raise RuntimeError("Could not determine home directory.")

        for name in ("MIXVPR_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        assert evaluate(*labelled).recall[1] == pytest.approx(200 / 3)
        assert ["--cache-gigabytes 0" in line for line in of_the_cache(caplog)] == [True]

    def test_pruning_that_fails(self, evaluate, labelled, tmp_path, monkeypatch, caplog):
        def refuse(*_):
            raise PermissionError(13, "Permission denied", "home")

        monkeypatch.setattr("mixvpr_jax.evaluation.describer.prune", refuse)
        evaluate(*labelled)
        assert (tmp_path / "out" / "results.json").exists()
        assert ["MIXVPR_HOME" in line for line in of_the_cache(caplog)] == [True]

    def test_a_users_own_folder_stays(self, evaluate, labelled, tmp_path, monkeypatch):
        monkeypatch.setenv("MIXVPR_HOME", str(tmp_path / "home"))
        own = tmp_path / "home" / "descriptors" / "superpoint"
        own.mkdir(parents=True)
        (own / "00000000-00000003.npz").write_bytes(b"of years of work")
        evaluate(*labelled, cache_gigabytes=1e-9)
        assert [path.name for path in own.parent.iterdir()] == ["superpoint"]
        assert (own / "00000000-00000003.npz").read_bytes() == b"of years of work"
