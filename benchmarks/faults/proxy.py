"""An HTTP proxy before the S3 server that breaks connections on demand, and counts what was committed through it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlparse

Fault = Literal["busy", "reset", "answer lost", "stall", "truncated"]
STALL_S = 3.0
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultProxy(ThreadingHTTPServer):
    """upstream: the server's URL; may be changed when it comes back elsewhere. commits: SHA-256 of every body that a
    conditional PUT stored, by path. met: faults that a request ran into."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.commits: defaultdict[str, list[str]] = defaultdict(list)
        self.met = 0
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def inject(self, fault: Fault, requests: int) -> None:
        """The next `requests` requests run into `fault`."""
        with self._lock:
            self._faults.extend([fault] * requests)

    @property
    def pending(self) -> int:
        """Faults that no request has run into yet."""
        return len(self._faults)

    def next_fault(self) -> Fault | None:
        with self._lock:
            if not self._faults:
                return None
            self.met += 1
            return self._faults.popleft()

    def committed(self, path: str, body: bytes) -> None:
        with self._lock:
            self.commits[path].append(hashlib.sha256(body).hexdigest())

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this proxy is for."""


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy on a free port of the loopback, until the block ends."""
    proxy = FaultProxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault()
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], _BUSY)
        elif fault == "reset":
            self._reset()
        elif fault == "stall":
            time.sleep(STALL_S)
            self._reset()
        else:
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _relay  # noqa: N815

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        try:
            status, headers, data = self._ask(body)
        except OSError:
            self._reset()
            return
        if self.command == "PUT" and status == 200 and self.headers.get("If-None-Match") == "*":
            self.server.committed(unquote(urlparse(self.path).path), body)
        if fault == "answer lost":
            self._reset()
        else:
            self._answer(status, headers, data, cut=fault == "truncated")

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The request as it came: its signature covers the headers, `Host` included."""
        upstream = http.client.HTTPConnection(urlparse(self.server.upstream).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        length = len(data)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = int(value)
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """RST instead of an orderly end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""
