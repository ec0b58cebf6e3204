"""The run's side of a process that it starts on a host by ssh."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from colonnade.clusters.base import library
from colonnade.clusters.ssh_host import MARK
from colonnade.errors import sanitize

__all__ = ["HostError", "Remote"]

# Run by the host's shell. Every user of the host can read this: it must contain no secret
_COMMAND = "{python} -c 'from colonnade.clusters.ssh_host import main; main()'"
_ABSENT = "No module named 'colonnade"
# Seconds for a process to end; the process itself allows a few less
_GRACE = 10
# Characters of the host's messages: the number to keep, and the number to show
_KEPT, _SHOWN = 4000, 250


class HostError(Exception):
    """A host does not start a process; the text states the reason."""


class Remote:
    """A process on a host; it ends with its ssh connection.

    Parameters
    ----------
    host
        The host's name or address.
    options
        Options of `asyncssh.connect`.
    python
        The host's Python, as a shell command; None for the path of this process's Python.
    document
        The process's configuration, sent to its standard input; see `ssh_host`.
    login
        Context manager that is entered during the login.
    """

    def __init__(
        self,
        host: str,
        options: dict[str, Any],
        python: str | None,
        document: dict[str, Any],
        login: AbstractAsyncContextManager[Any],
    ) -> None:
        self._host = host
        self._options = options
        self._login = login
        self._python = python or shlex.quote(sys.executable)
        self._document = document
        self._connection: Any = None
        self._process: Any = None
        self._stderr = ""
        self._answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._output: asyncio.Task[None] | None = None

    @property
    def said(self) -> str:
        """The last two lines of the process's standard error, joined."""
        lines = [line for each in self._stderr.splitlines() if (line := " ".join(each.split()))]
        text = "; ".join(lines[-2:])
        return sanitize(text if len(text) <= _SHOWN else f"…{text[1 - _SHOWN :]}", _SHOWN)

    async def start(self) -> dict[str, Any]:
        """Connect, start the process, and return its answer once it is ready.

        Raises
        ------
        HostError
            The process does not start.
        OSError, asyncssh.Error
            The connection fails.
        """
        asyncssh = library("asyncssh", "ssh")
        async with self._login:
            self._connection = await asyncssh.connect(self._host, **self._options)
        self._process = await self._connection.create_process(
            _COMMAND.format(python=self._python), encoding="utf-8", errors="replace"
        )
        # If the process has already ended, its standard error says why
        with suppress(OSError):
            self._process.stdin.write(json.dumps(self._document, default=str) + "\n")
        self._output = asyncio.create_task(self._listen())
        return await self._answer

    async def ended(self) -> None:
        """Wait until the process, or the connection to it, has ended."""
        if self._output is not None:
            await asyncio.wait((self._output,))

    async def close(self) -> None:
        """End the process and the connection."""
        if self._connection is None:
            return
        try:
            if self._output is not None:
                with suppress(OSError):
                    self._process.stdin.write_eof()
                _, hangs = await asyncio.wait((self._output,), timeout=_GRACE)
                if hangs:
                    with suppress(OSError):
                        self._process.kill()
        finally:
            self._connection.abort()
            await self._connection.wait_closed()

    async def _listen(self) -> None:
        """Read all output of the process, so that the process never blocks on writing."""
        await asyncio.gather(self._listen_to_answers(), self._listen_to_errors())
        if not self._answer.done():
            self._answer.set_exception(HostError(self._failure()))
            # Mark the exception as retrieved: nobody may wait for it any more
            self._answer.exception()

    async def _listen_to_answers(self) -> None:
        rest = ""
        while text := await self._read(self._process.stdout):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                if line.startswith(MARK) and not self._answer.done():
                    self._take(json.loads(line.removeprefix(MARK)))
            rest = rest[-_KEPT:]

    def _take(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self._answer.set_exception(HostError(sanitize(answer["error"], _SHOWN)))
            self._answer.exception()
        else:
            self._answer.set_result(answer)

    async def _listen_to_errors(self) -> None:
        while text := await self._read(self._process.stderr):
            self._stderr = (self._stderr + text)[-_KEPT:]

    async def _read(self, stream: Any) -> str:
        asyncssh = library("asyncssh", "ssh")
        try:
            return str(await stream.read(_KEPT))
        # The connection is lost
        except (OSError, asyncssh.Error):
            return ""

    def _failure(self) -> str:
        """Describe why the process has ended before it was ready."""
        if _ABSENT in self._stderr:
            return (
                f"its Python, {self._python}, has no colonnade, or another version: install there "
                "the version that this machine has, or name another Python (cluster.python)"
            )
        return (
            f"{self._python} failed to start: {self.said or 'it says nothing'}; correct this, or "
            "name another Python (cluster.python)"
        )
