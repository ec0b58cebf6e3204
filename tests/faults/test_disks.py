"""Disks that fill up, and files that go and come back."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.cluster import Cluster
from faults.lab import BLOCKS, DONE, INCOMPLETE, WRONG, Disk, Driver, Lab, Truth
from faults.waiting import until


@pytest.fixture(scope="session")
def cluster_at_the_disk(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), disk.prefix) as cluster:
        yield cluster


@pytest.fixture
def small(
    tmp_path: Path, truth: Truth, seed: int, disk: Disk, cluster_at_the_disk: Cluster
) -> Iterator[Lab]:
    """A job that writes to the small disk."""
    cluster_at_the_disk.heal()
    for left in disk.outside.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    with Lab(tmp_path, truth, seed, cluster_at_the_disk, disk) as lab:
        yield lab


def fill(folder: Path, leave: int) -> None:
    """Fill a disk but for so many bytes."""
    with (folder / "ballast").open("wb") as file:
        free = os.statvfs(folder)
        file.write(bytes(max(free.f_bavail * free.f_frsize - leave, 0)))


def free(folder: Path) -> None:
    (folder / "ballast").unlink()


@pytest.mark.rounds(5)
def test_the_disk_is_full_for_a_while(small: Lab) -> None:
    folder, random = small.store.parent, small.random
    for _ in range(2):
        fill(folder, leave=random.randrange(2**17))
        small.fault("a disk that is full at the start")
        driver = small.start()
        status = driver.ended(WRONG if not small.store.exists() else INCOMPLETE, INCOMPLETE)
        assert "No space left" in driver.told
        assert status == INCOMPLETE or not small.store.exists()
        small.look()
        free(folder)

        driver = small.start()
        if small.some_moment(driver, most=80):
            fill(folder, leave=random.randrange(2**17))
            small.fault("a disk that fills up")
            if random.randrange(2):
                until(lambda: is_full(folder) or not driver.running, "the disk is full")
            else:
                assert driver.ended(DONE, INCOMPLETE) == DONE or "No space left" in driver.told
                assert small.look() is not None
            free(folder)
        driver.ended(DONE, INCOMPLETE)
    small.look()
    small.finish()


def is_full(folder: Path) -> bool:
    return os.statvfs(folder).f_bavail < 4


def away(path: Path) -> Path:
    return path.with_name(f"away.{path.name}")


def gone_for_a_while(lab: Lab, path: Path, driver: Driver) -> None:
    path.rename(away(path))
    if lab.random.randrange(2):
        # So long as it takes; or until some more of the blocks that were begun are done or failed
        driver.ended(DONE, WRONG, INCOMPLETE)
    else:
        waited = threading.Event()
        waited.wait(lab.random.random())
    assert not path.exists(), "something was written where a disk had gone"
    away(path).rename(path)


@pytest.mark.rounds(6)
def test_x_goes_and_comes_back(lab: Lab) -> None:
    while lab.done < BLOCKS:
        driver = lab.start()
        if lab.some_moment(driver, most=120, least=1):
            gone_for_a_while(lab, lab.x, driver)
            lab.fault("X goes and comes back")
        driver.ended(DONE, WRONG, INCOMPLETE)
        lab.look()
    lab.finish()


@pytest.mark.rounds(2)
def test_x_goes_and_comes_back_very_often(lab: Lab) -> None:
    """Whatever is read in between is read wholly or not at all, never as zeros."""
    driver = lab.start()
    if lab.some_moment(driver, most=20, least=1):
        for _ in itertools.takewhile(lambda _: driver.running, range(400)):
            lab.x.rename(away(lab.x))
            threading.Event().wait(lab.random.random() * 0.002)
            away(lab.x).rename(lab.x)
            threading.Event().wait(lab.random.random() * 0.02)
        lab.fault("X goes and comes back hundreds of times")
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()


@pytest.mark.rounds(6)
def test_the_store_goes_and_comes_back(lab: Lab) -> None:
    while lab.done < BLOCKS:
        driver = lab.start()
        if lab.some_moment(driver, most=120, least=1):
            gone_for_a_while(lab, lab.store, driver)
            lab.fault("the store goes and comes back")
        driver.ended(DONE, WRONG, INCOMPLETE)
        lab.look()
    lab.finish()
