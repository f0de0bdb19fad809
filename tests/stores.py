"""Google's object store, on this machine: for gcsfs, tensorstore and ArrayRecord's own client.

gcp-storage-emulator keeps the objects. The clients ask for more than it knows: which generation
of an object they are given, to write only over the one that they have seen, for an object's last
bytes, and to rename one.
"""

import json
import logging
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from mixvpr_jax.storage import as_path

BUCKET = "bucket"
logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # tells of what is not there


class Handler(RequestHandler):
    """Generations in answers, conditions on them in requests, and what is forbidden."""

    protocol_version = "HTTP/1.1"  # whose clients wait a second to be told to go on

    def parse_request(self):
        if not super().parse_request():
            return False
        self.close_connection = True  # for the next client
        address = urlsplit(self.path)
        self.asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        _, _, name = address.path.partition(f"/b/{BUCKET}/o")
        self._find(unquote(name.lstrip("/")) or self.asked.get("name") or self._name_in_body())
        if (status := self._refusal()) is None:
            return True
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def _name_in_body(self):
        """What an upload in one request calls its object; the body is then read again."""
        if self.asked.get("uploadType") != "multipart":
            return ""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.rfile = BytesIO(body)
        return json.loads(body.split(b"\n\n")[1].split(b"\n--")[0])["name"]

    def _find(self, name):
        """The object that is asked for, and its generation: "0" where there is none."""
        self.name, self.generation = name, "0"
        try:
            found = self.storage.get_file_obj(BUCKET, name)
        except NotFound:
            return
        self.generation = found["generation"]
        unit, _, last = self.headers.get("Range", "").partition("=-")
        if unit == "bytes" and last:
            size = int(found["size"])
            self.headers.replace_header("Range", f"bytes={max(0, size - int(last))}-{size - 1}")

    def _refusal(self):
        """The status of what is forbidden, or of a condition that does not hold."""
        method, prefix = self.server.forbidden
        if self.command == method and self.name.startswith(prefix):
            return 403
        if self.asked.get("ifGenerationMatch", self.generation) != self.generation:
            return 412
        return 304 if self.asked.get("ifGenerationNotMatch") == self.generation else None

    def do_POST(self):
        source, found, target = self.name.partition("/moveTo/o/")
        if not found:
            super().do_POST()
            return
        data = self.storage.get_file(BUCKET, source)
        kept = {**self.storage.get_file_obj(BUCKET, source), "name": target}
        self.storage.create_file(BUCKET, target, data, kept)
        self.storage.delete_file(BUCKET, source)
        answer = json.dumps(kept).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def end_headers(self):
        if self.asked.get("alt") == "media":
            self.send_header("X-Goog-Generation", self.generation)
        self.send_header("Connection", "close")
        super().end_headers()

    def handle_expect_100(self):
        self.send_response_only(100)
        self.wfile.write(b"".join([*self._headers_buffer, b"\r\n"]))
        self._headers_buffer.clear()
        return True

    def log_message(self, *_):
        pass


class Server(HTTPServer):
    """An empty bucket; one request at a time, so that conditions hold.

    `forbidden` is a method and what the names begin with for which it is.
    """

    def __init__(self):
        self.storage = Storage(use_memory_fs=True)
        # Which would list all objects as text at each change of one.
        self.storage._write_config_to_file = lambda: None
        bucket = {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET}
        bucket["softDeletePolicy"] = {"retentionDurationSeconds": 0}
        self.storage.create_bucket(BUCKET, bucket)
        self.forbidden = ("", "")
        super().__init__(("127.0.0.1", 0), partial(Handler, self.storage))

    def handle_error(self, request, client_address):
        """Clients ask twice at once, and leave when one answer is there."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def environment(self):
        """What makes the libraries come here, and ask nobody for credentials."""
        address = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "GOOGLE_CLOUD_PROJECT": "none",
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # array_record
        }


@contextmanager
def serve():
    """A server, in a thread."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture(scope="session")
def store():
    """The server that this process and those it starts come to."""
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(store):
    """The address of an empty bucket."""
    yield as_path(f"gs://{BUCKET}")
    store.forbidden = ("", "")
    store.storage.wipe(keep_buckets=True)


def put(folder, address):
    """Copies what lies below a folder into a store, and tells where."""
    for file in Path(folder).rglob("*"):
        if file.is_file():
            (address / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return str(address)
