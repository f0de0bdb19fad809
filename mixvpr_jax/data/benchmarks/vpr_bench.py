"""SPED, ESSEX, CrossSeason and Inria Holidays: VPR-Bench's folders, GSV-Cities' ground truth."""

from __future__ import annotations

from mixvpr_jax.data.benchmarks.images import Found
from mixvpr_jax.data.benchmarks.labelled import read_labelled
from mixvpr_jax.data.benchmarks.lists import read_lists
from mixvpr_jax.data.benchmarks.places import Place

STEMS = {
    "sped": ("SPED",),
    "essex": ("ESSEX",),
    "crossseason": ("CrossSeason", "CrossSeasons"),
    "inria": ("Inria", "InriaHolidays"),
}


def read_vpr_bench(place: Place) -> Found:
    """The lists, with images in `ref` and `query`; for SPED the downloader's layout as well.

    Raises:
        InputError: None of them is there, or the lists are broken.
    """
    name = place.protocol.name
    stems = STEMS[name]
    if lists := read_lists(place, *stems):
        return lists.find(place, place.roots())
    if name == "sped" and (pair := place.pair("test")):
        return read_labelled(place.protocol, pair, mock=True)
    raise place.nothing(
        f"{stems[0]}_dbImages.npy, {stems[0]}_qImages.npy and {stems[0]}_gt.npy of the authors' "
        "repository, here, in datasets or in the folder given as ground truth",
        *(["VPR-datasets-downloader's images/test"] if name == "sped" else ()),
    )
