"""An HTTP proxy in front of the moto server that imitates network faults.

It cuts connections in the middle of a response, never responds, responds with 503, or flips one bit
of a body, at `flipped_at` of its length.
"""

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["drop", "stall", "503", "flip"] | None
#: (number of the request from 0, method, path) → the fault to inject.
Plan = Callable[[int, str, str], Fault]


class Proxy:
    """A context manager; `endpoint` is its URL on loopback.

    `plan` may be replaced at any time; `requests` lists `(method, path, fault)`. No request is
    answered before `min_concurrent` requests are waiting at the same time.
    """

    def __init__(self, port: int):
        self.plan: Plan = lambda number, method, path: None
        self.requests: list[tuple[str, str, Fault]] = []
        self._server_port = port
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._connections: list[socket.socket] = []
        self.min_concurrent = 1
        self.flipped_at = 0.5
        self._enough = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy.respond(self)

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
                """Ignore it: the tests make clients give up on purpose."""

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

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Forward one request, or inject the fault that the plan has for it."""
        body = _body(handler)
        with self._lock:
            fault = self.plan(len(self.requests), handler.command, handler.path)
            self.requests.append((handler.command, handler.path, fault))
            self._num_waiting += 1
            if self._num_waiting >= self.min_concurrent:
                self._enough.set()
        try:
            self._enough.wait(30)
            if fault == "stall":
                self._ended.wait()
                handler.close_connection = True
            elif fault == "503":
                self._send(
                    handler, 503, [("Retry-After", "0")], b"<Error><Code>SlowDown</Code></Error>"
                )
            else:
                self._forward(handler, body, fault)
        finally:
            with self._lock:
                self._num_waiting -= 1

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, fault: Fault) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=30)
        try:
            kept = {
                name: value
                for name, value in handler.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length", "expect")
            }
            upstream.request(handler.command, handler.path, body, kept)
            response = upstream.getresponse()
            content = bytearray(response.read())
            if fault == "flip" and content:
                content[int(self.flipped_at * (len(content) - 1))] ^= 4
            self._send(
                handler, response.status, response.getheaders(), content, cut=fault == "drop"
            )
        finally:
            upstream.close()

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes | bytearray,
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
    """Return the whole body of a request; pyarrow uploads parts with chunked encoding."""
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    return body
