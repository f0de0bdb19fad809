"""Nordland, which three protocols are made of.

- nordland: winter is searched for every tenth frame of summer, a frame off is right.
- nordland-full: summer is searched for every frame of winter, ten frames off are right.
- nordland-selavpr: a part of the journey, two frames off are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.folders import ImageFolder, downloader_layout, read_folder, read_lines
from mixvpr_jax.datasets.ground_truth import Place, read_lists, subfolders
from mixvpr_jax.datasets.names import KEY, by_value, fields_of
from mixvpr_jax.datasets.protocols import Protocol
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import Located, locate
from mixvpr_jax.storage import AnyPath

_METRES_A_FRAME = 25 / 10.5  # in its made-up positions
_MOST_FRAMES = 10**9
_NAME_LISTS = ("cleanImageNames.txt", "nordland_imageNames.txt")


def read_nordland(place: Place) -> EvaluationSet:
    """27,592 winter images and 2,760 summer ones, by the authors' lists."""
    found = read_lists(place, [place.roots()] * 2, "Nordland")
    if found is None:
        raise InputError(
            f"{place.title}: expected Nordland_dbImages.npy, Nordland_qImages.npy and "
            "Nordland_gt.npy of the authors' repository, found none; give their folder as ground "
            "truth. Every frame against every frame is nordland-full; folders of a downloader's "
            "nordland_subset search summer for winter, which is neither"
        )
    track = np.arange(len(found.queries)) / max(len(found.queries), 1)
    return replace(found, conditions={"section": _sections(track)})


def read_nordland_full(place: Place) -> EvaluationSet:
    """27,592 summer and 27,592 winter images: the downloader's folders, or those of the seasons."""
    if pair := place.pair("test"):
        folders = read_folder(pair[0]), read_folder(pair[1])
        layout = f"{downloader_layout(pair)} (made up of frames)"
        return _by_frames(place.protocol, layout, folders, list(map(_numbered_frames, folders)))
    for root in place.roots():
        summer, winter = subfolders(root, ("summer",)), subfolders(root, ("winter",))
        if summer and winter:
            return _read_seasons(place, summer[0], winter[0])
    raise place.nothing(
        "VPR-datasets-downloader's images/test/database and images/test/queries",
        f"folders summer and winter, with {_NAME_LISTS[0]}",
    )


def read_nordland_selavpr(place: Place) -> EvaluationSet:
    """3,450 and 3,450 images, frame by frame in the order of their names."""
    pair = place.pair("test")
    if pair is None:
        raise place.nothing("folders database and queries, here or in images/test")
    folders = read_folder(pair[0]), read_folder(pair[1])
    layout = f"{pair[0]} and {pair[1].name}, a frame each, in the order of their names"
    return _by_frames(place.protocol, layout, folders, _ordered_frames(place.protocol, *folders))


def _read_seasons(place: Place, summer: AnyPath, winter: AnyPath) -> EvaluationSet:
    """A frame's number is its place in the list of names, or else among the names there are."""
    if source := place.truth(*_NAME_LISTS):
        names = sorted(set(read_lines(source)), key=by_value)
    else:
        frames, source = [_names_of_frames(read_folder(at)) for at in (summer, winter)], summer
        if not frames[0].keys() & frames[1].keys():
            raise InputError(
                f"{summer} and {winter}: expected the same name for a frame in both, found "
                f"{min(frames[0].values())} and {min(frames[1].values())}; rename them"
            )
        names = [name for _, name in sorted((frames[1] | frames[0]).items())]
    located = [locate([season], names, source) for season in (summer, winter)]
    layout = f"folders of the seasons: {summer} and {winter.name}, names of {source.name}"
    return _by_frames(place.protocol, layout, located, [np.arange(len(names))] * 2)


def _by_frames(
    protocol: Protocol, layout: str, located: Sequence[Located], frames: Sequence[np.ndarray]
) -> EvaluationSet:
    there, asked = frames
    order = np.argsort(there, kind="stable")
    limit = protocol.frames or 0
    first = np.searchsorted(there[order], asked - limit, "left")
    last = np.searchsorted(there[order], asked + limit, "right")
    positives = [np.sort(order[start:end]) for start, end in zip(first, last, strict=True)]
    length = max(there.max(initial=0), asked.max(initial=0)) + 1
    sections = {"section": _sections(asked / length)}
    return EvaluationSet.of(protocol, layout, *located, positives=positives, conditions=sections)


def _sections(track: np.ndarray) -> list[str]:
    """Tenths of the journey, for positions [q] from 0 up to 1."""
    return [f"{10 * tenth}-{10 * tenth + 10} %" for tenth in (10 * track).astype(int)]


def _numbered_frames(folder: ImageFolder) -> np.ndarray:
    """[n] int64, from the names: the frame's own field, or else the made-up position."""
    try:
        frames = [int(fields_of(path)[KEY]) for path in folder.paths]
    except (IndexError, ValueError):
        frames = []
    if frames and 0 <= min(frames) <= max(frames) < _MOST_FRAMES:
        return np.array(frames, np.int64)
    if folder.utm is None or np.ptp(folder.utm[:, 0]):  # a track along other axes has other frames
        raise InputError(
            f"{folder.root}: expected names @0@north@@@@@frame@…, as VPR-datasets-downloader "
            f"writes them, found {folder.paths[-1].name}"
        )
    return np.rint(folder.utm[:, 1] / _METRES_A_FRAME).astype(np.int64)


def _ordered_frames(
    protocol: Protocol, database: ImageFolder, queries: ImageFolder
) -> list[np.ndarray]:
    """Places in the order of names; where images are missing, both must be named alike."""
    keys = [_order_keys(folder) for folder in (database, queries)]
    names = [set(folder_keys) for folder_keys in keys]
    whole = [len(some) for some in keys] == [protocol.num_database, protocol.num_queries]
    alike = names[0] <= names[1] or names[1] <= names[0]
    if not (alike or whole):
        raise InputError(
            f"{database.root} and {queries.root}: expected a frame of each name in both, found "
            f"{len(keys[0]):,} and {len(keys[1]):,} with different names"
        )
    frames = []
    for folder_keys in keys:
        every = sorted(names[0] | names[1]) if alike else sorted(folder_keys)
        rank = {key: index for index, key in enumerate(every)}
        frames.append(np.array([rank[key] for key in folder_keys], np.int64))
    return frames


def _names_of_frames(folder: ImageFolder) -> dict[tuple, str]:
    """By their keys, which a season's .png and the other's .jpg share."""
    names = (path.relative_to(folder.root).as_posix() for path in folder.paths)
    return dict(zip(_order_keys(folder), names, strict=True))


def _order_keys(folder: ImageFolder) -> list[tuple]:
    """What images are in order by: the made-up position, or else names with numbers as numbers."""
    if folder.utm is not None:
        return [tuple(position) for position in folder.utm.tolist()]
    names = [path.relative_to(folder.root).with_suffix("").as_posix() for path in folder.paths]
    return [tuple(by_value(name)) for name in names]
