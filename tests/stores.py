"""What stands for Google's object store."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

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


class _Served(BaseHTTPRequestHandler):
    """Parts of the store's files, as Google's client asks for them."""

    def do_GET(self):
        path, _, _ = self.path.removeprefix("/storage/v1/b/").partition("?")
        name = unquote(path.replace("/o/", "/", 1))
        data = Store().cat(f"gs://{name}")
        kind, _, span = self.headers["Range"].partition("=")
        first, _, last = span.partition("-")
        assert kind == "bytes"
        start = int(first) if first else max(0, len(data) - int(last))
        stop = int(last) + 1 if first and last else len(data)
        part = data[start:stop]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def served_bucket(bucket, monkeypatch):
    """The same, for ArrayRecord too, which has a client of its own: a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Served) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        yield bucket
        server.shutdown()
