"""A real HTTP/1.1 proxy in front of an S3 server that injects network faults.

The fault of a request depends on the seed, the number and the kind of the request, not on time.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

FAULTS = {
    "slow": "a pause between header and body of the response (before a response without a body)",
    "timeout": "no response: the request does not arrive, and the connection closes after a long time",
    "reset": "the connection is reset (RST) before the request arrives",
    "reset_after": "the connection is reset (RST) instead of a response: the request was executed",
    "unavailable": "503 SlowDown, 503 ServiceUnavailable or 500 InternalError: the request does not arrive",
    "truncated": "the response ends after half of the body that its header announced",
    "corrupt_download": "one byte of an object's content is changed in a download",
    "corrupt_upload": "one byte of an object's content is changed in an upload",
}
REFUSALS = {
    "SlowDown": (503, "Slow Down"),
    "ServiceUnavailable": (503, "Service Unavailable"),
    "InternalError": (500, "Internal Server Error"),
}
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
CONTENT_QUERIES = {"partNumber", "uploadId", "versionId", "x-id"}
"""Query parameters with which a body is the object's content, not its tags, list of parts, ..."""

BLOCK = 1 << 20
"""Bytes of a body in memory at once, for uploads of any size."""

UPSTREAM_SECONDS = 120.0


@dataclass(frozen=True)
class Order:
    """A fault for the next request with this method (None: any) and path."""

    fault: str
    method: str | None
    path: str

    def fits(self, method: str, target: str) -> bool:
        text = unquote(target)
        return self.method in (None, method) and any(fnmatchcase(t, self.path) for t in (text, text.split("?")[0]))


class FaultProxy:
    """Forwards requests to `upstream` (`http://HOST:PORT`) and injects faults; a context manager.

    With `probability`, a request has a fault, drawn uniformly from those of `faults` (names in `FAULTS`, all by
    default) that apply to it. `active = False` disables random faults at any time, but not those of `once`.

    `pause` is the pause of a slow response, `stall` the time before a silent connection closes, in seconds.
    """

    def __init__(
        self,
        upstream: str,
        faults: Collection[str] = tuple(FAULTS),
        probability: float = 0.0,
        seed: int = 0,
        *,
        pause: float = 1.5,
        stall: float = 10.0,
    ) -> None:
        known(*faults)
        self.upstream = urlsplit(upstream)
        self.faults = [fault for fault in FAULTS if fault in faults]
        self.probability, self.seed = probability, seed
        self.pause, self.stall = pause, stall
        self.active = True
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()

    def once(self, fault: str, *, method: str | None = None, path: str = "*") -> None:
        """Inject `fault` into the next request with this method and path that it applies to.

        `path` is a shell pattern for the unquoted path, with or without its query: `*/sub-01/dwi/*.json`,
        `*partNumber=2*`. Several orders apply in sequence, one per request.
        """
        known(fault)
        with self._lock:
            self._orders.append(Order(fault, method, path))

    def draw(self, method: str, target: str) -> tuple[str | None, random.Random]:
        """The fault of the next request, and a random generator for its details."""
        with self._lock:
            self.requests += 1
            numbers = random.Random(f"{self.seed}/{self.requests}")
            for order in self._orders:
                if order.fits(method, target) and possible(order.fault, method, target):
                    self._orders.remove(order)
                    return order.fault, numbers
        candidates = [fault for fault in self.faults if possible(fault, method, target)]
        if self.active and candidates and numbers.random() < self.probability:
            return numbers.choice(candidates), numbers
        return None, numbers

    def record(self, fault: str) -> None:
        with self._lock:
            self.injected[fault] += 1


def known(*faults: str) -> None:
    if unknown := sorted(set(faults) - set(FAULTS)):
        raise ValueError(f"faults: expected names among {', '.join(FAULTS)}, found {', '.join(unknown)}")


def possible(fault: str, method: str, target: str) -> bool:
    """Whether a fault applies to a request.

    Only the content of objects is corrupted: no S3 client could detect a changed digit in a listing.
    """
    path, _, query = target.partition("?")
    names_a_key = "/" in path.strip("/")
    is_content = names_a_key and set(parse_qs(query, keep_blank_values=True)) <= CONTENT_QUERIES
    if fault == "corrupt_download":
        return method == "GET" and is_content and "uploadId" not in query
    if fault == "corrupt_upload":
        return method == "PUT" and is_content
    return method in ("GET", "POST") if fault == "truncated" else True


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with a short queue, clients wait a second for a connection
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.proxy = proxy
        self.open_connections: set[socket.socket] = set()

    def hang_up(self) -> None:
        """Close the connections that clients keep open."""
        for connection in list(self.open_connections):
            with contextlib.suppress(OSError):  # the client closed it first
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that disconnected is not an error
            super().handle_error(request, client_address)


class _Exchange(BaseHTTPRequestHandler):
    """The connection of one client, until one side closes it."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.open_connections.add(self.connection)

    def finish(self) -> None:
        self.server.open_connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged."""

    def serve(self) -> None:
        fault, numbers = self.server.proxy.draw(self.command, self.path)
        if fault == "reset":
            self.inject(fault)
            self.reset()
        elif fault == "unavailable":
            self.inject(fault)
            self.refuse(numbers)
        elif fault == "timeout":
            self.inject(fault)
            self.stall()
        else:
            self.forward(fault, numbers)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815  http.server's names

    def forward(self, fault: str | None, numbers: random.Random) -> None:
        upstream = self.server.proxy.upstream
        connection = HTTPConnection(str(upstream.hostname), upstream.port, timeout=UPSTREAM_SECONDS)
        try:
            answer = self.ask(connection, fault, numbers)
            if fault == "reset_after":
                answer.read()
                self.inject(fault)
                self.reset()
            else:
                self.answer(answer, fault, numbers)
        except (HTTPException, OSError):  # the server or the client disconnected
            self.reset()
        finally:
            connection.close()

    def ask(self, connection: HTTPConnection, fault: str | None, numbers: random.Random) -> HTTPResponse:
        """Forward the request unchanged, its body in blocks."""
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        blocks = self.body()
        if fault == "corrupt_upload":
            blocks = self.corrupted_upload(blocks, numbers)
        for block in blocks:
            connection.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            connection.send(b"0\r\n\r\n")
        return connection.getresponse()

    def body(self) -> Iterator[bytes]:
        """The request's body in blocks. Raises ConnectionError if the client disconnects before its end."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield from self.exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        else:
            yield from self.exactly(int(self.headers.get("Content-Length") or 0))

    def exactly(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.rfile.read(min(BLOCK, size))
            if not block:
                raise ConnectionError("the client disconnected before the end of its request")
            size -= len(block)
            yield block

    def corrupted_upload(self, blocks: Iterator[bytes], numbers: random.Random) -> Iterator[bytes]:
        """The body with one byte of content changed, in the first block after the header of an `aws-chunked` chunk."""
        first = next(blocks, b"")
        if first:
            signed = "aws-chunked" in self.headers.get("Content-Encoding", "")
            start = first.index(b"\r\n") + 2 if signed else 0
            size = int(first.split(b"\r\n")[0].split(b";")[0], 16) if signed else len(first)
            self.inject("corrupt_upload")
            yield from changed(iter([first]), start + numbers.randrange(min(size, len(first) - start)))
        yield from blocks

    def answer(self, answer: HTTPResponse, fault: str | None, numbers: random.Random) -> None:
        """Forward the server's response, with the fault if it applies to responses."""
        empty = self.command == "HEAD" or answer.status in (204, 304)
        length = answer.getheader("Content-Length")
        rest = answer.read() if length is None and not empty else None
        size = 0 if empty else len(rest) if rest is not None else int(length or 0)
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        if rest is not None:
            headers.append(("Content-Length", str(size)))
        blocks = iter([rest]) if rest is not None else iter(lambda: answer.read(BLOCK), b"")

        if fault == "corrupt_download" and size and 200 <= answer.status < 300:
            self.inject(fault)
            blocks = changed(blocks, numbers.randrange(size))
        if fault == "truncated" and size:
            self.inject(fault)
            blocks = cut(blocks, size // 2)
        if fault == "slow":
            self.inject(fault)
        if fault == "slow" and not size:
            self.wait(self.server.proxy.pause)
        self.send_head(answer.status, answer.reason, headers)
        if fault == "slow" and size:
            self.wait(self.server.proxy.pause)
        sent = 0
        for block in blocks if size else ():
            self.wfile.write(block)
            sent += len(block)
        self.close_connection |= sent < size

    def send_head(self, status: int, reason: str, headers: list[tuple[str, str]]) -> None:
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.wfile.write("\r\n".join(lines).encode("latin-1"))

    def refuse(self, numbers: random.Random) -> None:
        for _ in self.body():
            pass
        code = numbers.choice(list(REFUSALS))
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Please try again.</Message></Error>'.encode()
        self.send_head(*REFUSALS[code], [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
        if self.command != "HEAD":
            self.wfile.write(text)

    def stall(self) -> None:
        for _ in self.body():
            pass
        self.wait(self.server.proxy.stall)
        self.close_connection = True

    def reset(self) -> None:
        """Close immediately with RST: no lingering, and no other handle that keeps the socket open."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def wait(self, seconds: float) -> None:
        self.server.proxy.stopping.wait(seconds)

    def inject(self, fault: str) -> None:
        self.server.proxy.record(fault)


def changed(blocks: Iterator[bytes], position: int) -> Iterator[bytes]:
    """The blocks with every bit of the byte at `position` inverted."""
    for block in blocks:
        if 0 <= position < len(block):
            block = block[:position] + bytes([block[position] ^ 0xFF]) + block[position + 1 :]
        position -= len(block)
        yield block


def cut(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes of the blocks."""
    for block in blocks:
        yield block[:size]
        size -= min(size, len(block))
