"""Processes that are killed, stopped and asked to end, at moments that a seed draws."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from faults.cluster import Cluster
from faults.lab import BLOCKS, DONE, INCOMPLETE, STOPPED, Driver, Lab
from faults.waiting import until


def kill(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        return True
    return False


@pytest.mark.rounds(3)
def test_workers_killed(lab: Lab, cluster: Cluster) -> None:
    driver = lab.start()
    while lab.some_moment(driver, most=30, least=5):
        workers = cluster.workers
        if workers and kill(lab.random.choice(workers)):
            lab.fault("kill -9 of a worker")
            # The nanny brings it back, or the whole job is done before
            until(lambda: len(cluster.workers) == 2 or not driver.running, "the worker is back")
    # A block whose workers died too often is left for the same command
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()


@pytest.mark.rounds(2, quick=0)
def test_workers_of_a_local_cluster_killed(local: Lab) -> None:
    driver = local.start()
    while local.some_moment(driver, most=30, least=5):
        workers = driver.workers
        if workers and kill(local.random.choice(workers)):
            local.fault("kill -9 of a worker")
            until(lambda: len(driver.workers) == 2 or not driver.running, "the worker is back")
    driver.ended(DONE, INCOMPLETE)
    local.look()
    local.finish()


@pytest.mark.rounds(3)
def test_nannies_killed(lab: Lab, cluster: Cluster) -> None:
    driver = lab.start()
    while lab.some_moment(driver, most=45, least=5):
        nannies = cluster.nannies
        workers = cluster.workers
        if nannies and kill(lab.random.choice(nannies)):
            lab.fault("kill -9 of a nanny")
            # Its worker does not go on without it
            until(lambda: len(cluster.nannies) == 2, "another nanny is there")
            until(lambda: sum(w.is_running() for w in workers) < 2, "its worker has ended")
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()


@pytest.mark.rounds(4)
def test_schedulers_killed(lab: Lab, cluster: Cluster) -> None:
    driver = lab.start()
    if lab.some_moment(driver, most=100) and kill(cluster.scheduler):
        lab.fault("kill -9 of the scheduler")
    if driver.ended(DONE, INCOMPLETE) == INCOMPLETE:
        assert "the scheduler is lost" in driver.told
    lab.look()
    cluster.heal()
    lab.finish()


@pytest.mark.rounds(5)
def test_drivers_killed(lab: Lab) -> None:
    """One after the other, each going on where the one before was killed."""
    while lab.done < BLOCKS:
        driver = lab.start()
        if lab.some_moment(driver, most=45):
            driver.send(signal.SIGKILL)
            lab.fault("kill -9 of the driver")
        driver.ended(DONE, -signal.SIGKILL)
        lab.look()
    lab.finish()


@pytest.mark.rounds(2, quick=0)
def test_drivers_with_a_local_cluster_killed(local: Lab) -> None:
    driver = local.start()
    if local.some_moment(driver):
        driver.send(signal.SIGKILL)
        local.fault("kill -9 of the driver")
    driver.ended(DONE, -signal.SIGKILL)
    local.look()
    local.finish()


def signalled(lab: Lab, driver: Driver, *, twice: bool) -> None:
    # Before its first words Python may still be importing, and answers for itself
    until(lambda: bool(driver.told) or not driver.running, "the driver says something")
    if lab.some_moment(driver, most=60):
        first = lab.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        again = [lab.random.choice([signal.SIGTERM, signal.SIGINT])] if twice else []
        for signum in [first, *again]:
            driver.send(signum)
        lab.fault(f"{first.name} of the driver{', then another signal' if twice else ''}")
    driver.ended(DONE, *STOPPED)
    lab.look()


@pytest.mark.rounds(3)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_drivers_signalled(lab: Lab, twice: bool) -> None:
    while lab.done < BLOCKS:
        signalled(lab, lab.start(), twice=twice)
    lab.finish()


@pytest.mark.rounds(2, quick=0)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_drivers_with_a_local_cluster_signalled(local: Lab, twice: bool) -> None:
    signalled(local, local.start(), twice=twice)
    local.finish()


@pytest.mark.rounds(2)
def test_drivers_killed_while_they_make_the_store(lab: Lab) -> None:
    """Neither half a store nor what it was made of is left."""
    for _ in range(3):
        driver = lab.start("--overwrite")
        names = [".out.zarr.*", ".out.zarr.*/*", ".out.zarr.*/*/c*"]
        name = lab.random.choice(names)
        until(lambda: any(lab.folder.glob(name)) or not driver.running, "the store is being made")
        driver.send(signal.SIGKILL)
        driver.ended(-signal.SIGKILL)
        lab.fault("kill -9 of the driver as it makes the store")
        lab.look()
    lab.finish()


Victim = Callable[[Lab, Driver], psutil.Process | None]


def a_worker(lab: Lab, _: Driver) -> psutil.Process | None:
    assert lab.cluster is not None
    return lab.random.choice(lab.cluster.workers or [None])


def a_nanny(lab: Lab, _: Driver) -> psutil.Process | None:
    assert lab.cluster is not None
    return lab.random.choice(lab.cluster.nannies or [None])


def the_scheduler(lab: Lab, _: Driver) -> psutil.Process | None:
    assert lab.cluster is not None
    return lab.cluster.scheduler


def the_driver(_: Lab, driver: Driver) -> psutil.Process | None:
    return psutil.Process(driver.process.pid)


@pytest.mark.rounds(4)
def test_processes_stopped_for_a_while(lab: Lab) -> None:
    driver = lab.start()
    while lab.some_moment(driver, most=30, least=5):
        victim = lab.random.choice([a_worker, a_worker, a_nanny, the_scheduler, the_driver])
        with suppress(psutil.NoSuchProcess):
            process = victim(lab, driver)
            assert process is not None
            process.suspend()
            try:
                lab.fault(f"SIGSTOP, then SIGCONT of {victim.__name__.replace('_', ' ')}")
                until(lambda: process.status() == psutil.STATUS_STOPPED, "it stands still")
                lab.look()
            finally:
                process.resume()
    driver.ended(DONE)
    lab.finish()
