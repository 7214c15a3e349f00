"""A web server with weights: Zenodo's records and their API, and a mirror, with the faults of real servers."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from kwneuro_assets.weights.networks import NETWORKS, WeightFile

LICENSE, VERSION = "cc-by-4.0", "v7"  # of all records of this server
_BLOCK = 1 << 16
_FILES: dict[tuple[str, str], str] = {
    (str(file.record), file.key): file.name for network in NETWORKS.values() for file in network.files
}
_RANGE = re.compile(r"bytes=(\d+)-")


class Request(NamedTuple):
    """One request: the path without its query, the name of the file (or `api`), and the first byte asked for."""

    path: str
    name: str
    start: int


class WeightServer:
    """Serves `files`, by the names under which they are installed.

    As an archive: `<url>/records/<record>/files/<key>`, and their records at `<url>/api/records/<record>`; as a mirror:
    `<mirror>/<name>`. Faults are set between requests.

    Attributes:
        files: The content of each file.
        requests: All requests so far.
        sent: The number of bytes sent of each file.
        cuts: For each file, how many bytes the next answers send before the connection ends.
        statuses: For each file, `api` or `checksums.json`, the status of the next answers.
        checksums: What the API publishes instead of the MD5 of a file; None: nothing.
        kind: The content type of files.
        has_ranges: Whether parts of a file can be requested.
        has_validators: Whether answers have an ETag.
        with_length: Whether answers have a Content-Length.
        delay: Seconds between two blocks of 64 kB.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.sent: dict[str, int] = defaultdict(int)
        self.cuts: dict[str, list[int]] = defaultdict(list)
        self.statuses: dict[str, list[int]] = defaultdict(list)
        self.checksums: dict[str, str | None] = {}
        self.kind = "application/octet-stream"
        self.has_ranges = self.has_validators = self.with_length = True
        self.delay = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.mirror = f"{self.url}/weights"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> WeightServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server; connections are refused afterwards."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def names(self) -> list[str]:
        """The name of the file of each request so far, `api` for a record."""
        return [request.name for request in self.requests]

    def starts(self, name: str) -> list[int]:
        """The first byte of each request of a file."""
        return [request.start for request in self.requests if request.name == name]

    def record(self, number: str) -> dict[str, Any] | None:
        """The record in the format of Zenodo's API, None if there is none."""
        files = [file for network in NETWORKS.values() for file in network.files if str(file.record) == number]
        if not files:
            return None
        return {
            "id": int(number),
            "doi": files[0].doi,
            "metadata": {"title": "Weights", "version": VERSION, "license": {"id": LICENSE}},
            "files": [self._entry(file) for file in files],
        }

    def _entry(self, file: WeightFile) -> dict[str, Any]:
        content = self.files.get(file.name, b"")
        checksum = self.checksums.get(file.name, f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}")
        entry = {"key": file.key, "size": len(content), "links": {"self": f"{self.url}/api/.../{file.key}/content"}}
        return entry if checksum is None else {**entry, "checksum": checksum}


def _handler(server: WeightServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            parts = path.strip("/").split("/")
            found = _RANGE.match(self.headers.get("Range", ""))
            is_api = parts[:2] == ["api", "records"]
            name = "api" if is_api else parts[-1]
            if parts[0] == "records" and len(parts) == 4:
                name = _FILES.get((parts[1], parts[3]), "")
            server.requests.append(Request(path, name, int(found[1]) if found else 0))
            if server.statuses[name]:
                self.send_error(server.statuses[name].pop(0))
            elif is_api:
                self._send_record(server.record(parts[2]))
            elif name not in server.files:
                self.send_error(404)
            else:
                self._send_file(name, server.files[name], int(found[1]) if found else 0)

        def _send_record(self, record: dict[str, Any] | None) -> None:
            if record is None:
                self.send_error(404)
                return
            content = json.dumps(record).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _send_file(self, name: str, content: bytes, start: int) -> None:
            tag = f'"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'  # as Zenodo's
            is_same = self.headers.get("If-Range") in (None, tag)
            start = start if server.has_ranges and is_same else 0
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", server.kind)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.with_length:
                self.send_header("Content-Length", str(len(content) - start))
            if server.has_validators:
                self.send_header("ETag", tag)
            self.end_headers()
            end = len(content)
            if server.cuts[name]:
                end = min(start + server.cuts[name].pop(0), end)
            self._send_blocks(name, content[start:end])

        def _send_blocks(self, name: str, content: bytes) -> None:
            for at in range(0, len(content), _BLOCK):
                block = content[at : at + _BLOCK]
                try:
                    self.wfile.write(block)
                except OSError:  # the client ended
                    return
                server.sent[name] += len(block)
                time.sleep(server.delay)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
