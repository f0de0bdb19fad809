"""What stands for Google's object store."""

import sys

import pytest
from fsspec.implementations.memory import MemoryFileSystem


class Store(MemoryFileSystem):
    """gs:// in memory."""

    protocol = "gs"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("gs://"))

    def __init__(self, *args, finalize_on_close=False, **options):
        super().__init__(*args, **options)


@pytest.fixture
def bucket(monkeypatch):
    """A function that puts a folder into the store and tells its address."""
    for name in ("gs", "gcs"):
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, name, Store)

    def put(folder):
        Store().put(f"{folder}/", "bucket/gsv_cities/", recursive=True)
        return "gs://bucket/gsv_cities"

    yield put
    Store.store.clear()
    Store.pseudo_dirs[:] = [""]
