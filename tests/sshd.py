"""A real sshd for the tests that need one, with keys of its own, for whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
SSHD = "/usr/sbin/sshd"

_CONF = """\
Port {port}
ListenAddress 127.0.0.1
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

    @property
    def settings(self) -> dict[str, Any]:
        """What a job's section `cluster` says of it."""
        return {
            "kind": "ssh", "hosts": [HOST], "port": self.port,
            "client_keys": [str(self.folder / "mine")],
            "known_hosts": str(self.folder / "known_hosts"),
        }  # fmt: skip


def _key(path: Path) -> str:
    """Make a key; return the public one's type and value."""
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@contextmanager
def serving(folder: Path) -> Iterator[Sshd]:
    """Start an sshd, wait until it answers, and stop it."""
    host, mine, _ = (_key(folder / name) for name in ("host", "mine", "others"))
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    (folder / "authorized_keys").write_text(f"{mine}\n")
    (folder / "known_hosts").write_text(f"[{HOST}]:{port} {host}\n")
    (folder / "no_hosts").write_text("")
    conf = _CONF.format(port=port, folder=folder)
    # Whoever logs in starts with an environment of its own
    if "PYTHONPATH" in os.environ:
        conf += f"SetEnv PYTHONPATH={os.environ['PYTHONPATH']}\n"
    (folder / "sshd_config").write_text(conf)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = folder / "sshd.log"
    sshd = shutil.which(SSHD)
    assert sshd is not None
    process = subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", log])
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and "Server listening" in log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("sshd does not start: " + log.read_text())
            time.sleep(0.02)
        yield Sshd(folder, port)
    finally:
        process.terminate()
        process.wait()
