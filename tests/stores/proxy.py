"""An HTTP proxy before the moto server that fails as networks do: connections cut in mid-answer,
silence, 503s.
"""

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["drop", "stall", "503"] | None
#: What to do with a request: its number (from 0), method and path.
Plan = Callable[[int, str, str], Fault]


class Proxy:
    """Use as a context: `endpoint` is its URL on loopback.

    `plan` may be set anew at any time; `requests` lists `(method, path, fault)`.

    Nobody is answered before `meet` requests have come at once.
    """

    def __init__(self, port: int):
        self.plan: Plan = lambda number, method, path: None
        self.requests: list[tuple[str, str, Fault]] = []
        self._behind, self._ended, self._lock, self._now = (
            port,
            threading.Event(),
            threading.Lock(),
            0,
        )
        self._connections: list[socket.socket] = []
        self.meet, self._met = 1, threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close = False, True

            def get_request(self) -> tuple[socket.socket, object]:
                connection, address = super().get_request()
                proxy._connections.append(connection)
                return connection, address

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that gave up is what the tests want."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="proxy"
        )

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._server.shutdown()
        for connection in self._connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request: forwarded, unless the plan has something else in mind."""
        body = _body(handler)
        with self._lock:
            fault = self.plan(len(self.requests), handler.command, handler.path)
            self.requests.append((handler.command, handler.path, fault))
            self._now += 1
            if self._now >= self.meet:
                self._met.set()
        try:
            self._met.wait(30)
            if fault == "stall":
                self._ended.wait()
                handler.close_connection = True
            elif fault == "503":
                self._say(
                    handler, 503, [("Retry-After", "0")], b"<Error><Code>SlowDown</Code></Error>"
                )
            else:
                self._forward(handler, body, cut=fault == "drop")
        finally:
            with self._lock:
                self._now -= 1

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, *, cut: bool) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=30)
        try:
            kept = {
                name: value
                for name, value in handler.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length", "expect")
            }
            behind.request(handler.command, handler.path, body, kept)
            answer = behind.getresponse()
            content = answer.read()
            self._say(handler, answer.status, answer.getheaders(), content, cut=cut)
        finally:
            behind.close()

    def _say(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        *,
        cut: bool = False,
    ) -> None:
        handler.send_response_only(status)
        kept = [
            (name, value)
            for name, value in headers
            if name.lower() not in ("connection", "transfer-encoding", "content-length")
        ]
        length = {name.lower(): value for name, value in headers}.get(
            "content-length", str(len(content))
        )
        for name, value in [*kept, ("Content-Length", length)]:
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            handler.wfile.flush()
            handler.close_connection = True


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """Of a request, whole; pyarrow sends parts of uploads in chunks."""
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    return body
