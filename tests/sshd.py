"""A real sshd for the tests that need one, with keys of its own, for whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
SSHD = "/usr/sbin/sshd"

_CONF = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
MaxStartups 50
"""


@dataclass(frozen=True)
class Sshd:
    """An sshd that runs, and files that lead there."""

    folder: Path
    port: int
    hosts: Sequence[str] = (HOST,)
    pid: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What a job's section `cluster` says of it."""
        return {
            "kind": "ssh", "hosts": list(self.hosts), "port": self.port,
            "client_keys": [str(self.folder / "mine")],
            "known_hosts": str(self.folder / "known_hosts"),
        }  # fmt: skip


def _key(path: Path) -> str:
    """Make a key; return the public one's type and value."""
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def prepare(folder: Path, hosts: Sequence[str] = (HOST,)) -> Sshd:
    """Make the keys, and what leads to an sshd on each of the hosts, on one port."""
    host, mine, _ = (_key(folder / name) for name in ("host", "mine", "others"))
    port = _free_port()
    (folder / "authorized_keys").write_text(f"{mine}\n")
    (folder / "known_hosts").write_text("".join(f"[{each}]:{port} {host}\n" for each in hosts))
    (folder / "no_hosts").write_text("")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    return Sshd(folder, port, hosts)


def command(sshd: Sshd, address: str) -> list[str]:
    """Tell how the sshd of a host is started."""
    conf = _CONF.format(port=sshd.port, folder=sshd.folder, address=address)
    # Whoever logs in starts with an environment of its own
    if "PYTHONPATH" in os.environ:
        conf += f"SetEnv PYTHONPATH={os.environ['PYTHONPATH']}\n"
    file = sshd.folder / f"sshd_config-{address}"
    file.write_text(conf)
    program = shutil.which(SSHD)
    assert program is not None
    return [program, "-D", "-f", str(file), "-E", str(_log(sshd, address))]


def _log(sshd: Sshd, address: str) -> Path:
    return sshd.folder / f"sshd-{address}.log"


def wait_until_it_listens(
    sshd: Sshd, process: subprocess.Popen[bytes], address: str = HOST
) -> None:
    log = _log(sshd, address)
    deadline = time.monotonic() + 60
    while not (log.exists() and "Server listening" in log.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("sshd does not start: " + log.read_text())
        time.sleep(0.02)


@contextmanager
def serving(folder: Path) -> Iterator[Sshd]:
    """Start an sshd on this machine, wait until it answers, and stop it."""
    sshd = prepare(folder)
    process = subprocess.Popen(command(sshd, HOST))
    try:
        wait_until_it_listens(sshd, process)
        yield replace(sshd, pid=process.pid)
    finally:
        process.terminate()
        process.wait()
