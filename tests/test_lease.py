"""One run at a time: refused while the other lives, taken over when it is dead."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from colonnade.errors import IncompleteError, StoreError
from colonnade.events import HolderWatched
from colonnade.places import Directory
from colonnade.store import lease
from colonnade.store.lease import FILE, Holder, hold, holder

ELSEWHERE = Holder("other", "another-host.example", 1, "17", "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    (tmp_path / FILE).parent.mkdir()
    return tmp_path / FILE


def leave(path: Path, found: Holder) -> None:
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
                       {"stopping": 1}, {"renewed": 3}, {"run": ["x"]}, {"more": 1})
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
    assert "a host that is not known" in str(found)
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
    leave(tmp_path, replace(ELSEWHERE, host=lease.socket.gethostname(), pid=2**22 + 1))
    script = (
        "import sys\n"
        "from colonnade.errors import StoreError\n"
        "from colonnade.places import Directory\n"
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
        with pytest.raises(
            IncompleteError, match=r"in the hands of a run on another-host\.example"
        ):
            lease.confirm()
    assert holder(Directory(tmp_path)) == ELSEWHERE


def test_a_lease_that_could_not_be_taken_away_is_nobodys(tmp_path: Path) -> None:
    """Its process lives, and its run does not."""
    with hold(Directory(tmp_path), "first"):
        held = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(held)
    with hold(Directory(tmp_path), "second", term=10**6):
        pass
