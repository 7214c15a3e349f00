"""An HTTP server that answers every request as S3 answers one that it refuses."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RefusingServer:
    """A context manager: a server that answers with this status and S3 error code.

    If `methods` are given, only their requests are refused; for the others the bucket is empty and accepts uploads.
    """

    def __init__(self, status: int, code: str, methods: tuple[str, ...] = ()) -> None:
        self.requests = 0
        server = self

        class Refusal(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests += 1
                if not methods or self.command in methods:
                    self.say(status, code)
                elif self.command == "GET" and "list-type" in self.path:
                    self.send(200, b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>')
                elif self.command in ("GET", "HEAD"):
                    self.say(404, "NoSuchKey")
                else:
                    self.send(200, b"")

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  http.server's names

            def say(self, status: int, code: str) -> None:
                # S3 repeats the key's name and, for a bad token, the token.
                self.send(
                    status,
                    f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>refused</Message>'
                    f"<Token-0>{self.headers.get('x-amz-security-token')}</Token-0></Error>".encode(),
                )

            def send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Requests are counted, not logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> RefusingServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
