"""Disks that fill up, and files that go and come back."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
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
    # Others write at the same time, so that there may be less
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        left = os.statvfs(folder)
        file.write(bytes(max(left.f_bavail * left.f_frsize - leave, 0)))


def free(folder: Path) -> None:
    (folder / "ballast").unlink()


@pytest.mark.rounds(3)
def test_the_disk_is_full_for_a_while(small: Lab) -> None:
    folder, random = small.store.parent, small.random
    for _ in range(2):
        fill(folder, leave=random.randrange(2**17))
        small.fault("a disk that is full at the start")
        driver = small.start()
        # The little that is left may be enough
        status = driver.ended(DONE, WRONG, INCOMPLETE)
        assert status == DONE or "No space left" in driver.told
        assert status != WRONG or not small.store.exists()
        small.look()
        free(folder)

        driver = small.start()
        if small.some_moment(driver, most=40):
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


def pass_time(seconds: float) -> None:
    threading.Event().wait(seconds)


def gone_for_a_while(lab: Lab, path: Path, driver: Driver) -> None:
    path.rename(away(path))
    if lab.random.randrange(2):
        # So long as it takes; or until some more of the blocks that were begun are done or failed
        driver.ended(DONE, WRONG, INCOMPLETE)
    else:
        pass_time(lab.random.random())
    if path.exists():
        # A block that was just being written makes its folders anew; nothing else does
        assert all(file.name.startswith("c.") for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
    away(path).rename(path)


@pytest.mark.rounds(2)
def test_x_goes_and_comes_back(lab: Lab) -> None:
    while lab.done < BLOCKS:
        driver = lab.start()
        if lab.some_moment(driver, most=60, least=1):
            gone_for_a_while(lab, lab.x, driver)
            lab.fault("X goes and comes back")
        driver.ended(DONE, WRONG, INCOMPLETE)
        lab.look()
    lab.finish()


@pytest.mark.rounds(1)
def test_x_goes_and_comes_back_again_and_again(lab: Lab) -> None:
    """Whatever is read in between is read wholly or not at all, never as zeros."""
    driver = lab.start()
    if lab.some_moment(driver, most=10, least=1):
        for _ in itertools.takewhile(lambda _: driver.running, range(20)):
            lab.x.rename(away(lab.x))
            # Longer than the reading of a chunk: whoever looks before and after it notices
            pass_time(0.1 + lab.random.random() * 0.1)
            away(lab.x).rename(lab.x)
            lab.fault("X goes and comes back, again and again")
            pass_time(lab.random.random() * 0.05)
    driver.ended(DONE, INCOMPLETE)
    lab.look()
    lab.finish()


@pytest.mark.rounds(2)
def test_the_store_goes_and_comes_back(lab: Lab) -> None:
    while lab.done < BLOCKS:
        driver = lab.start()
        if lab.some_moment(driver, most=60, least=1):
            gone_for_a_while(lab, lab.store, driver)
            lab.fault("the store goes and comes back")
        driver.ended(DONE, WRONG, INCOMPLETE)
        lab.look()
    lab.finish()
