"""Finding a benchmark below the folder that the user gave.

Each dataset has its own folder name, its ground truth beside the images or in another
repository. `Place` knows where to look; it opens no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixvpr_jax.datasets.evaluation_set import Protocol
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import files_in, folders_in
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class Place:
    """Where to look for a benchmark.

    Attributes:
        protocol: Which.
        folder: The dataset's own folder, or one that holds it.
        ground_truth: Where the authors' files lie if not there, or one of them.
        names: What the dataset's folder is usually called; upper and lower case are the same.
    """

    protocol: Protocol
    folder: AnyPath
    ground_truth: AnyPath | None
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """How an error line begins."""
        return f"{self.folder}: {self.protocol.name}"

    def roots(self) -> list[AnyPath]:
        """The folders that may be the dataset's own, likeliest first."""
        near = [self.folder, *subfolders(self.folder, self.names)]
        return [*near, *(raw for root in near for raw in subfolders(root, ("raw_data", "raw")))]

    def truth(self, *files: str) -> AnyPath | None:
        """The first of these ground-truth files that is found, in the order they are named."""
        folders = list(self._truth_folders())
        found = (_file_in(folder, file) for file in files for folder in folders)
        return next((path for path in found if path is not None), None)

    def _truth_folders(self) -> Iterator[AnyPath]:
        given = self.ground_truth
        if given is not None and given.is_file():
            given = given.parent
        for root in self.roots() if given is None else [given]:
            yield root
            for below in subfolders(root, ("datasets", *self.names)):
                yield below
                yield from subfolders(below, self.names)

    def pair(self, *splits: str) -> tuple[AnyPath, AnyPath] | None:
        """Folders `database` and `queries`, as VPR-datasets-downloader lays them out."""
        for root in self.roots():
            for within in (*(f"images/{split}" for split in splits), *splits, "."):
                database, queries = root / within / "database", root / within / "queries"
                if database.is_dir() and queries.is_dir():
                    return database, queries
        return None

    def nothing(self, *expected: str) -> InputError:
        """The line for a folder that holds none of the layouts."""
        return InputError(f"{self.title}: expected {'; or '.join(expected)}; found neither")


def subfolders(folder: AnyPath, names: Sequence[str]) -> list[AnyPath]:
    """The folders in a folder that go by one of these names, whatever their case, by rank."""
    ranks = {name.lower(): rank for rank, name in reversed(list(enumerate(names)))}
    return sorted(
        (folder / name for name in folders_in(folder) if name.lower() in ranks),
        key=lambda path: (ranks[path.name.lower()], path.name),
    )


def _file_in(folder: AnyPath, name: str) -> AnyPath | None:
    if (folder / name).is_file():
        return folder / name
    found = [other for other in files_in(folder) if other.lower() == name.lower()]
    return folder / min(found) if found else None
