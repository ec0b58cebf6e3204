"""One run at a time: refused while the other lives, taken over when it is dead."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from colonnade.errors import IncompleteError, StoreError
from colonnade.events import HolderWatched
from colonnade.storage import Directory
from colonnade.store.lease import FILE, LeaseOwner, hold, holder
from support import needs

ELSEWHERE = LeaseOwner("other", "another-host.example", 1, "17", "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    (tmp_path / FILE).parent.mkdir()
    return tmp_path / FILE


def leave(path: Path, found: LeaseOwner) -> None:
    (path / FILE).write_text(json.dumps(asdict(found)))


def test_held_renewed_and_released(tmp_path: Path) -> None:
    renewed = threading.Event()
    with hold(Directory(tmp_path), "mine", term=0.06):
        first = holder(Directory(tmp_path))
        assert first is not None
        assert (first.run, first.pid) == ("mine", os.getpid())
        while not renewed.wait(0.01):
            now = holder(Directory(tmp_path))
            assert now is not None
            assert replace(now, renewals=0, renewed=first.renewed) == first
            assert 0 <= now.silent < 60
            if now.renewals > 2:
                renewed.set()
    assert list((tmp_path / FILE).parent.iterdir()) == []


def test_the_living_keep_it(tmp_path: Path) -> None:
    with hold(Directory(tmp_path), "mine"):
        with (
            pytest.raises(StoreError, match=rf"written by a run on .*process {os.getpid()}, since"),
            hold(Directory(tmp_path), "other"),
        ):
            raise AssertionError
        found = holder(Directory(tmp_path))
        assert found is not None
        assert found.run == "mine"


def hold_until_killed(path: str, ready: Any) -> None:
    with hold(Directory(path), "killed"):
        ready.set()
        signal.pause()


def test_a_killed_process_of_this_host_is_succeeded_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_until_killed, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(StoreError, match=f"process {process.pid}"),
        hold(Directory(tmp_path), "mine"),
    ):
        raise AssertionError
    process.kill()
    process.join()
    with hold(Directory(tmp_path), "mine", term=10**6):
        found = holder(Directory(tmp_path))
        assert found is not None
        assert found.run == "mine"


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    with hold(Directory(tmp_path), "old"):
        old = holder(Directory(tmp_path))
    assert old is not None
    leave(tmp_path, replace(old, process_started="1"))
    with hold(Directory(tmp_path), "mine", term=10**6):
        pass


def test_another_host_that_lives_is_heard(tmp_path: Path) -> None:
    """It renews once while we watch, and that is enough, whatever its clock says."""
    leave(tmp_path, ELSEWHERE)
    renewing = threading.Timer(0.3, leave, [tmp_path, replace(ELSEWHERE, renewals=1)])
    renewing.start()
    with (
        pytest.raises(StoreError, match=r"another-host\.example"),
        hold(Directory(tmp_path), "mine", term=60),
    ):
        raise AssertionError
    renewing.join()


HOSTILE = [
    b"", b"{", b'{"run": 3}', b"[]", b"[" * 4000, b" " * 2**20, b"\xff",
    *(
        json.dumps(asdict(ELSEWHERE) | change).encode()
        for change in ({"pid": -1}, {"pid": 10**400}, {"host": None}, {"renewals": 0.5},
                       {"stopping": 1}, {"renewed": 3}, {"run": ["x"]}, {"boot": 1},
                       {"namespace": None}, {"more": 1})
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["pipe", "link", "link to a pipe"])
def test_no_regular_file_is_a_dead_lease(tmp_path: Path, place: Path, kind: str) -> None:
    """Opening a pipe waits for its writer; none ever comes."""
    if kind == "pipe":
        os.mkfifo(place)
    else:
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to(tmp_path / ("pipe" if kind == "link to a pipe" else "nowhere"))
    found = holder(Directory(tmp_path))
    assert found is not None
    assert "an unknown host" in str(found)
    with hold(Directory(tmp_path), "mine", term=0.2):
        assert holder(Directory(tmp_path)) != found
    assert list(place.parent.iterdir()) == []


def test_a_directory_is_refused(tmp_path: Path, place: Path) -> None:
    (place / "of mine").mkdir(parents=True)
    with (
        pytest.raises(StoreError, match="cannot be written"),
        hold(Directory(tmp_path), "x", term=0.2),
    ):
        raise AssertionError


def test_a_strange_host_is_shown_harmlessly() -> None:
    told = str(replace(ELSEWHERE, host="\x1b[2J" + "x" * 1000))
    assert told.isprintable()
    assert len(told) < 300


@pytest.mark.parametrize("content", [None, *HOSTILE])
def test_silence_is_death(tmp_path: Path, content: bytes | None) -> None:
    leave(tmp_path, ELSEWHERE)
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    known = holder(Directory(tmp_path))
    events: list[Any] = []
    with hold(Directory(tmp_path), "mine", term=0.2, listener=events.append):
        assert events == [HolderWatched(str(tmp_path), str(known), 0.2)]
        found = holder(Directory(tmp_path))
        assert found is not None
        assert found.run == "mine"


def test_one_of_many_successors(tmp_path: Path) -> None:
    """They find a dead run's lease at the same time, in processes of their own."""
    with hold(Directory(tmp_path), "dead"):
        dead = holder(Directory(tmp_path))
    assert dead is not None
    leave(tmp_path, replace(dead, pid=2**22 + 1))
    script = (
        "import sys\n"
        "from colonnade.errors import StoreError\n"
        "from colonnade.storage import Directory\n"
        "from colonnade.store.lease import hold\n"
        "sys.stdin.readline()\n"
        "try:\n"
        f"    with hold(Directory({str(tmp_path)!r}), sys.argv[1]):\n"
        "        print('held', flush=True)\n"
        "        sys.stdin.readline()\n"
        "except StoreError:\n"
        "    print('refused', flush=True)\n"
    )
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(i)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for i in range(5)
    ]  # fmt: skip
    for rival in rivals:
        rival.stdin.write("\n")
        rival.stdin.flush()
    told = sorted(rival.stdout.readline().strip() for rival in rivals)
    for rival in rivals:
        rival.communicate("\n", timeout=60)
    assert told == ["held", *["refused"] * 4]
    assert list((tmp_path / FILE).parent.iterdir()) == []


def test_who_lost_it_takes_nothing_away(tmp_path: Path) -> None:
    with hold(Directory(tmp_path), "mine", term=0.06) as lease:
        lease.check()
        leave(tmp_path, ELSEWHERE)
        with pytest.raises(IncompleteError, match=r"taken over by a run on another-host\.example"):
            lease.confirm()
    assert holder(Directory(tmp_path)) == ELSEWHERE


def test_a_lease_that_could_not_be_taken_away_is_nobodys(tmp_path: Path) -> None:
    """Its process lives, and its run does not."""
    with hold(Directory(tmp_path), "first"):
        held = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(held)
    with hold(Directory(tmp_path), "second", term=10**6):
        pass


HOLDING = """
import sys
from colonnade.storage import Directory
from colonnade.store.lease import hold
with hold(Directory(sys.argv[1]), sys.argv[2], term=float(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.readline()
"""
# Its /proc has the numbers of its own processes, or of those outside
OWN = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
UNSEEN = ["unshare", "--pid", "--fork", "--kill-child"]


def holding(prefix: list[str], path: Path, run: str, term: float = 30.0) -> subprocess.Popen[str]:
    """Start a process that takes a lease; it prints `held`, or ends with a StoreError."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLDING, str(path), run, str(term)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _needs_root() -> None:
    needs("unshare", "apt-get install util-linux")
    if os.getuid() != 0:
        pytest.skip("only root makes pid namespaces; to include this: sudo")


@contextmanager
def namespaced(prefix: list[str], path: Path) -> Iterator[subprocess.Popen[str]]:
    """A live holder in a pid namespace of its own, which renews its lease."""
    _needs_root()
    process = holding(prefix, path, "inside", 0.6)
    try:
        assert process.stdout.readline() == "held\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("prefix", [OWN, UNSEEN], ids=["own /proc", "another's /proc"])
def test_the_living_keep_it_in_another_pid_namespace(tmp_path: Path, prefix: list[str]) -> None:
    """Its number is another process's here, or nobody's: containers on one volume, one name."""
    with namespaced(prefix, tmp_path):
        for outside in ([], OWN, UNSEEN):
            rival = holding(outside, tmp_path, "outside")
            _, told = rival.communicate(timeout=60)
            assert rival.returncode == 1
            assert f"written by a run on {os.uname().nodename}" in told
        found = holder(Directory(tmp_path))
        assert found is not None
        assert found.run == "inside"
        assert not found.is_here
        assert not found.is_gone


def test_silence_is_death_in_another_pid_namespace(tmp_path: Path) -> None:
    with namespaced(OWN, tmp_path) as inside:
        inside.kill()
        inside.wait()
        events: list[Any] = []
        with hold(Directory(tmp_path), "mine", term=0.2, listener=events.append):
            found = holder(Directory(tmp_path))
            assert found is not None
            assert found.run == "mine"
        assert [type(event) for event in events] == [HolderWatched]


def test_a_boot_before_is_silent(tmp_path: Path) -> None:
    """Its numbers are of another kernel's life: nothing is told by who has them now."""
    with hold(Directory(tmp_path), "old"):
        old = holder(Directory(tmp_path))
    assert old is not None
    leave(tmp_path, replace(old, boot="another", run="before"))
    events: list[Any] = []
    with hold(Directory(tmp_path), "mine", term=0.2, listener=events.append):
        assert [type(event) for event in events] == [HolderWatched]


def test_a_lease_of_an_older_version(tmp_path: Path) -> None:
    """It tells neither boot nor namespace: it is read, and heard before it is taken."""
    with hold(Directory(tmp_path), "old"):
        old = asdict(holder(Directory(tmp_path)) or ELSEWHERE)
    del old["boot"], old["namespace"]
    (tmp_path / FILE).write_text(json.dumps(old))
    found = holder(Directory(tmp_path))
    assert found is not None
    assert (found.run, found.pid, found.boot) == ("old", os.getpid(), "")
    assert not found.is_gone
    events: list[Any] = []
    with hold(Directory(tmp_path), "mine", term=0.2, listener=events.append):
        assert [type(event) for event in events] == [HolderWatched]


LOOKING = """
import os, sys
from colonnade.storage import Directory
from colonnade.store import holder
if sys.argv[2:] == ["nobody"]:
    # Once all is imported: Python may lie where no other user may look
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
found = holder(Directory(sys.argv[1]))
print(found.run, found.is_here, found.is_gone)
"""
LOOKED_AT = """
import subprocess, sys
from colonnade.storage import Directory
from colonnade.store.lease import hold
with hold(Directory(sys.argv[1]), "inside"):
    for user in ([], ["nobody"]):
        subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1], *user], check=True)
"""


def test_a_process_that_proc_hides_is_not_known_to_be_dead() -> None:
    """With hidepid, as on many login nodes, nobody sees the processes of others."""
    _needs_root()
    hidden = 'mount -o remount,hidepid=2 /proc && exec "$@"'
    with tempfile.TemporaryDirectory() as folder:
        # For nobody to look into
        Path(folder).chmod(0o755)
        (Path(folder) / FILE).parent.mkdir()
        done = subprocess.run(
            [*OWN, "sh", "-c", hidden, "sh", sys.executable, "-c", LOOKED_AT, folder, LOOKING],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.stdout.splitlines() == ["inside True False", "inside False False"], done.stderr
