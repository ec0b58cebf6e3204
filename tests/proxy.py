"""A disturbing proxy between colonnade and a real HTTP server: on real sockets, by a seed."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

FAULTS = ("500", "503", "cut before", "cut after", "cut within", "stall")


class Proxy:
    """Passes requests on to a server, but for some, which it answers with a fault.

    500, 503: an answer of the server's that it fails, or is busy. cut before, after, within: the
    connection ends before the request reaches the server, once it has been done, in the middle
    of the answer. stall: no answer comes at all.
    """

    def __init__(self, endpoint: str, seed: int, rate: float, faults: Any = FAULTS) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname, parts.port)
        self._random = random.Random(seed)  # noqa: S311
        self._rate = rate
        self._faults = faults
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self.down = False
        self.counts: Counter[str] = Counter()
        self.requests = 0

    def __enter__(self) -> Proxy:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            sockets = list(self._sockets)
        for connection in sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()

    def _start(self, work: Any, *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            with self._lock:
                self._sockets |= {client, server}
            with suppress(OSError), client.makefile("rb") as asked, server.makefile("rb") as said:
                while self._pass(client, asked, server, said):
                    pass
            with self._lock:
                self._sockets -= {client, server}

    def _draw(self) -> str:
        with self._lock:
            self.requests += 1
            fault = ""
            if self.down:
                fault = "cut before"
            elif self._random.random() < self._rate:
                fault = self._random.choice(self._faults)
            if fault:
                self.counts[fault] += 1
            return fault

    def _pass(
        self, client: socket.socket, asked: IO[bytes], server: socket.socket, said: IO[bytes]
    ) -> bool:
        """Pass one request on, and its answer back; False where the connection ends."""
        request = _head(asked)
        if not request:
            return False
        fault = self._draw()
        body = _body(asked, request)
        if fault in ("500", "503"):
            client.sendall(_failure(fault))
            return True
        if fault == "cut before":
            return _reset(client)
        if fault == "stall":
            # Until the client has had enough
            asked.read(1)
            return False
        server.sendall(request + body)
        answer = _head(said)
        if not answer:
            return False
        if not request.startswith(b"HEAD") and answer.split()[1] not in (b"204", b"304"):
            answer += _body(said, answer)
        if fault == "cut after":
            return _reset(client)
        if fault == "cut within":
            client.sendall(answer[: len(answer) * 2 // 3])
            return _reset(client)
        client.sendall(answer)
        return True


def _head(file: IO[bytes]) -> bytes:
    """A request's or an answer's first line and its fields; nothing where the other end is gone."""
    lines = []
    while line := file.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _body(file: IO[bytes], head: bytes) -> bytes:
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        parts = []
        while True:
            size = file.readline()
            parts += [size, file.read(int(size, 16) + 2)]
            if int(size, 16) == 0:
                return b"".join(parts)
    return file.read(int(fields.get(b"content-length", b"0")))


def _failure(status: str) -> bytes:
    code = {"500": "InternalError", "503": "SlowDown"}[status]
    body = f"<Error><Code>{code}</Code><Message>Drawn by a seed.</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Failing\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(client: socket.socket) -> bool:
    """End a connection at once, as a cut does; always False."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.shutdown(socket.SHUT_RD)
    return False
