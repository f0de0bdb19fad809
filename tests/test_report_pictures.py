"""The pictures of a report: small, upright, within their bytes, and told where a photo is gone."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_values import photo_at, report_data, written

from mixvpr_jax.errors import InputError
from mixvpr_jax.report.page import write_page
from mixvpr_jax.report.thumbnails import Thumbnail, make_thumbnail


def test_each_photo_is_embedded_once(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    # The same photos are queries and database.
    data = replace(data, query_paths=[*data.query_paths[:2], data.database_paths[0]])
    report = written(tmp_path / "report.html", data)
    assert len(report.pictures()) == len(set(report.paths())) == 2 + 4


def test_photos_nobody_sees_are_not_read(tmp_path: Path) -> None:
    data = report_data(tmp_path)
    Path(data.database_paths[0]).unlink()
    report = written(tmp_path / "report.html", data, neighbours=1)
    assert set(report.value["database"]["shown"]) == {1, 2}


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by a quarter.
    turned = photo_at(tmp_path / "turned.jpg", size=(1200, 600), exif=exif, comment=b"home address")
    wide = photo_at(tmp_path / "wide.jpg", size=(800, 200))
    small = photo_at(tmp_path / "small.jpg", size=(30, 20))
    report = written(
        tmp_path / "report.html", report_data(tmp_path, query_paths=[turned, wide, small])
    )

    pictures, value = report.pictures(), report.value["pictures"]
    ours = [pictures[place] for place in report.value["queries"]["picture"]]
    assert [one.size for one in ours] == [(160, 320), (320, 80), (30, 20)]
    assert [one.size for one in pictures] == list(zip(value["width"], value["height"], strict=True))
    assert not ours[0].getexif()
    assert not {"comment", "exif", "icc_profile", "xmp"} & set(ours[0].info)


def test_pictures_keep_to_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [tmp_path / f"{index}.jpg" for index in range(40)]
    for photo in photos:
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8))
        coarse.resize((640, 480)).save(photo)
    data = report_data(
        tmp_path, database_paths=photos, query_paths=photos[:10], positives=None, recall=None,
        predictions=np.arange(40).reshape(10, 4), distances=np.ones((10, 4)),
    )  # fmt: skip
    sides, sizes = [], []
    for limit in (10_000_000, 300_000, 150_000, 1):
        report = written(tmp_path / "report.html", data, thumbnail_bytes=limit)
        sides.append(max(report.value["pictures"]["width"]))
        sizes.append(len("".join(report.value["pictures"]["base64"])))
        assert len(report.pictures()) == 40
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (320, 80)
    assert sizes[1] < 1.1 * 300_000
    assert sizes[2] < 1.1 * 150_000


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    def bar(made: Iterable[Thumbnail], name: str, total: int, **_: object) -> Iterator[Thumbnail]:
        for done, thumbnail in enumerate(made, start=1):
            told.append((done, total))
            yield thumbnail

    monkeypatch.setattr("mixvpr_jax.report.thumbnails.tqdm", bar)
    write_page(tmp_path / "report.html", report_data(tmp_path))
    assert told == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"2\.jpg: expected an image, found no such file"),
        (b"", r"2\.jpg: expected an image, found an empty file"),
        (b"no image", r"2\.jpg: expected an image \(BMP, .*\), found none of these"),
        (slice(0, 400), r"2\.jpg: expected a whole image, found a broken one"),
    ],
)
def test_a_photo_that_cannot_be_read_is_told_on_the_page(
    tmp_path: Path, content: bytes | slice | None, message: str
) -> None:
    data = report_data(tmp_path)
    photo = Path(data.database_paths[2])
    whole = photo.read_bytes()
    photo.unlink()
    if content is not None:
        photo.write_bytes(whole[content] if isinstance(content, slice) else content)
    value = written(tmp_path / "report.html", data).value["pictures"]
    (problem,) = value["problems"]
    assert re.search(message, problem)
    assert value["base64"].count("") == 1


def test_no_program_is_run_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS is one, whatever its file is called: Pillow would have Ghostscript run it."""
    eps = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 48)).save(eps, "EPS")

    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: ran.append(eps))
    with pytest.raises(InputError, match=r"photo.jpg: expected an image \(BMP, .* found none of"):
        make_thumbnail(eps, 32, 50)
    assert ran == []
