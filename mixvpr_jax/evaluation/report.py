"""`report.html`: every query photo beside its nearest database photos, in one file.

Python only gathers: it turns an evaluation into one JSON value and puts that into
`report_template.html`, whose script draws the page. The file opens offline from disk and asks
the network for nothing; thumbnails travel inside it as base64 JPEG. The JSON value is

    title              str
    facts              [[name, value], …]
    recall             [[k, percent], …], or null without ground truth
    has_ground_truth   bool
    total_queries      int, of the evaluation; `queries` may hold only the first of them
    images             [{name, path, width, height, uri}, …], each picture once
    queries            [{number, image, positives, neighbours}, …]
      image            index into images
      positives        int, true positives of the query in the database, or null
      neighbours       [{image, distance, right}, …], nearest first; right is bool or null
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mixvpr_jax.files import beside
from mixvpr_jax.preprocess import load_image

THUMBNAIL_SIDE_PIXELS = 240
THUMBNAIL_QUALITY = 80
TEMPLATE = Path(__file__).with_name("report_template.html")
PLACEHOLDER = "__REPORT_DATA__"


@dataclass(frozen=True)
class ReportData:
    """One evaluation, as the report shows it; q queries, k neighbours each.

    Attributes:
        title: the headline, such as "resnet50_4096 on city".
        facts: a small table in its order: model, dataset, protocol, images, date.
        recall: k to recall@k in percent; None without ground truth.
        database_paths: the database photos, in descriptor order.
        query_paths: the q query photos, in descriptor order.
        predictions: [q, k] int, indices into `database_paths`, nearest first.
        distances: [q, k] float32, L2 distance between unit descriptors.
        positives: per query, the database indices of its true positives; None without ground
            truth.
    """

    title: str
    facts: Mapping[str, str]
    recall: Mapping[int, float] | None
    database_paths: Sequence[Path]
    query_paths: Sequence[Path]
    predictions: np.ndarray
    distances: np.ndarray
    positives: Sequence[np.ndarray] | None


def write_report(
    path: Path, data: ReportData, *, neighbours: int = 5, max_queries: int = 200
) -> None:
    """Writes the report as one self-contained HTML file.

    The file appears whole or not at all: whatever fails, an older report stays as it was.

    Args:
        path: the file to write, by habit `report.html`; its folder exists.
        data: the evaluation.
        neighbours: how many of the k predictions are shown for a query.
        max_queries: how many queries are shown, from the first on; the page says so.

    Raises:
        ValueError: the parts of `data` do not fit together, or a limit is below one.
        InputError: a photo is missing, broken or no image.
        OSError: the file cannot be written.
    """
    if neighbours < 1 or max_queries < 1:
        raise ValueError(
            f"neighbours and max_queries: expected at least 1, found {neighbours} and {max_queries}"
        )
    _check_shapes(data)
    _check_indices(data)
    page = _page(_report_value(data, neighbours, max_queries))
    with beside(path) as temporary:
        temporary.write_bytes(page.encode("utf-8"))


def readable_name(path: Path) -> str:
    """The part of a file name that tells a person something.

    Names of the form `@east@north@zone@letter@lat@lon@pano@tile@heading@pitch@roll@height@time@
    note@.jpg` (VPR-datasets-downloader) begin with coordinates that all look alike; of these the
    panorama, tile, time and note are kept, or the UTM position where none of them is given.

    Args:
        path: a photo's path, of which only the last part counts.

    Returns:
        The name, as it is where it holds no such fields.
    """
    fields = path.name.split("@")
    if len(fields) < 4 or fields[0] or not (_is_number(fields[1]) and _is_number(fields[2])):
        return path.name
    padded = fields[:-1] + [""] * 15
    told = [padded[place] for place in (7, 8, 13, 14) if padded[place]]
    return " · ".join(told) or f"{float(fields[1]):.0f} E {float(fields[2]):.0f} N"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_shapes(data: ReportData) -> None:
    shape = np.shape(data.predictions)
    if len(shape) != 2 or shape[0] != len(data.query_paths):
        raise ValueError(f"predictions: expected [{len(data.query_paths)}, k], found {shape}")
    if np.shape(data.distances) != shape:
        raise ValueError(f"distances: expected {shape}, found {np.shape(data.distances)}")
    if data.positives is not None and len(data.positives) != shape[0]:
        raise ValueError(f"positives: expected {shape[0]} arrays, found {len(data.positives)}")


def _check_indices(data: ReportData) -> None:
    # A negative index would quietly show another photo.
    predictions, count = np.asarray(data.predictions), len(data.database_paths)
    if predictions.size and not 0 <= predictions.min() <= predictions.max() < count:
        raise ValueError(
            f"predictions: expected indices 0 to {count - 1}, "
            f"found {predictions.min()} to {predictions.max()}"
        )


class _ImageTable:
    """Photos of the page in order of first use, each of them once."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._places: dict[Path, int] = {}

    def place(self, path: Path) -> int:
        """The photo's index in `entries`, to which it is added where it is new."""
        if path not in self._places:
            self._places[path] = len(self.entries)
            self.entries.append(_image_entry(path))
        return self._places[path]


def _image_entry(path: Path) -> dict[str, Any]:
    thumbnail = load_image(path)
    thumbnail.thumbnail((THUMBNAIL_SIDE_PIXELS, THUMBNAIL_SIDE_PIXELS), Image.Resampling.LANCZOS)
    return {
        "name": readable_name(path),
        "path": str(path),
        "width": thumbnail.width,
        "height": thumbnail.height,
        "uri": _data_uri(thumbnail),
    }


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    # Pillow carries a JPEG's comment over; the page shows pixels and passes nothing else on.
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True, comment=b"")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _report_value(data: ReportData, neighbours: int, max_queries: int) -> dict[str, Any]:
    images = _ImageTable()
    shown = range(min(max_queries, len(data.query_paths)))
    queries = [_query_entry(data, query, neighbours, images) for query in shown]
    recall = None if data.recall is None else [[int(k), float(r)] for k, r in data.recall.items()]
    return {
        "title": data.title,
        "facts": [[str(name), str(value)] for name, value in data.facts.items()],
        "recall": recall,
        "has_ground_truth": data.positives is not None,
        "total_queries": len(data.query_paths),
        "images": images.entries,
        "queries": queries,
    }


def _query_entry(
    data: ReportData, query: int, neighbours: int, images: _ImageTable
) -> dict[str, Any]:
    predicted = [int(index) for index in data.predictions[query][:neighbours]]
    distances = [float(distance) for distance in data.distances[query][:neighbours]]
    positives = None if data.positives is None else {int(index) for index in data.positives[query]}
    return {
        "number": query + 1,
        "image": images.place(Path(data.query_paths[query])),
        "positives": None if positives is None else len(positives),
        "neighbours": [
            {
                "image": images.place(Path(data.database_paths[index])),
                # JSON knows no NaN, and a browser refuses the whole value for one.
                "distance": round(distance, 6) if math.isfinite(distance) else None,
                "right": None if positives is None else index in positives,
            }
            for index, distance in zip(predicted, distances, strict=True)
        ],
    }


def _page(value: Mapping[str, Any]) -> str:
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACEHOLDER, _script_safe_json(value), 1)


def _script_safe_json(value: Any) -> str:
    """JSON in ASCII that no HTML parser can take for a tag, a comment or an entity.

    ASCII also carries file names that are not valid UTF-8, which Python holds as lone surrogates.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
