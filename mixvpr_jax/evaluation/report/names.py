"""Names of photos, for people."""

from __future__ import annotations

import math

from mixvpr_jax.storage import AnyPath


def readable_name(path: AnyPath) -> str:
    """The part of a file name that tells a person something.

    Names of the form `@east@north@zone@letter@lat@lon@pano@tile@heading@pitch@roll@height@time@
    note@.jpg` (VPR-datasets-downloader) begin with coordinates that all look alike; of these the
    panorama, tile, time and note are kept, or the UTM position where none of them is given.

    Args:
        path: A photo's path, of which only the last part counts.

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
