"""Workers that run out of memory: killed by their nanny, by the kernel, or refused more."""

from __future__ import annotations

import operator
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client

from faults.cluster import Cluster
from faults.lab import DONE, INCOMPLETE, Lab, Truth
from faults.waiting import until

LIMIT = 400_000_000


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("limited"), memory=str(LIMIT)) as cluster:
        yield cluster


@pytest.mark.rounds(2)
def test_killed_by_their_nannies(limited: Cluster, tmp_path: Path, truth: Truth, seed: int) -> None:
    """Somebody else's task on the same cluster takes all of a worker's memory, and more."""
    limited.heal()
    with Lab(tmp_path, truth, seed, limited) as lab, Client(limited.address) as client:
        driver = lab.start()
        while lab.some_moment(driver, most=40, least=5):
            before = limited.workers
            hog = client.submit(operator.mul, b"x", 2 * LIMIT, pure=False)
            until(lambda: any(not w.is_running() for w in before), "a nanny has killed its worker")
            lab.fault("a worker over its limit of memory, killed by its nanny")
            hog.cancel()
            until(lambda: len(limited.workers) == 2 or not driver.running, "the worker is back")
        driver.ended(DONE, INCOMPLETE)
        lab.look()
        lab.finish()


@pytest.fixture(scope="session")
def group() -> Iterator[Path]:
    """A control group that has no memory to give."""
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        place = Path("/sys/fs/cgroup", root, "colonnade-faults")
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            if (place / limit).exists():
                (place / limit).write_text("256K")
                yield place
                return
        finally:
            place.rmdir()
    pytest.skip("no kernel to kill workers: this user may not make a memory control group")


@pytest.mark.rounds(2)
def test_killed_by_the_kernel(lab: Lab, cluster: Cluster, group: Path) -> None:
    driver = lab.start()
    while lab.some_moment(driver, most=40, least=5):
        workers = cluster.workers
        if workers:
            victim = lab.random.choice(workers)
            with suppress(OSError):
                (group / "cgroup.procs").write_text(str(victim.pid))
                until(lambda: not victim.is_running() or not driver.running, "it is killed")
                lab.fault("a worker without memory, killed by the kernel")
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        until(lambda: len(cluster.workers) == 2 or not driver.running, "the worker is back")
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()


@pytest.mark.rounds(2)
def test_refused_more(lab: Lab, cluster: Cluster) -> None:
    """For a while every allocation fails: a block does, or the worker, but nothing is wrong."""
    driver = lab.start()
    while lab.some_moment(driver, most=40, least=5):
        with suppress(psutil.NoSuchProcess, ProcessLookupError, IndexError):
            victim = lab.random.choice(cluster.workers)
            hard = resource.prlimit(victim.pid, resource.RLIMIT_AS)[1]
            resource.prlimit(victim.pid, resource.RLIMIT_AS, (2**20, hard))
            lab.fault("a worker whose allocations fail")
            there = lab.done
            until(
                lambda: lab.done > there + 5 or not victim.is_running() or not driver.running,
                "others go on, or it dies",
            )
            resource.prlimit(victim.pid, resource.RLIMIT_AS, (hard, hard))
            # Its threads may not have survived it: it may be there for ever, and do nothing
            victim.kill()
            until(lambda: len(cluster.workers) == 2 or not driver.running, "the worker is back")
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()
