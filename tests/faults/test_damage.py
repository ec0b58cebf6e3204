"""Bits that flip and files that are cut short or deleted: in X, and in what was written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import colonnade as cn
from colonnade.errors import IncompleteError, InputError
from colonnade.events import BlockDone, Event
from faults.lab import BLOCKS, COLUMNS, X_CHUNK, Lab


def flip(path: Path, choice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, choice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: choice.randrange(path.stat().st_size)])


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


@pytest.mark.rounds(3)
@pytest.mark.parametrize("damage", [flip, truncate])
def test_x_damaged(lab: Lab, damage: Any) -> None:
    """The blocks of the chunk fail, with the cause, and no others; a run from the start is none."""
    chunk = lab.random.choice(sorted((lab.x / "c" / "0").iterdir()))
    whole = chunk.read_bytes()
    damage(chunk, lab.random)
    with pytest.raises(InputError, match="X cannot be read"):
        cn.run(lab.job)
    assert not lab.store.exists()
    chunk.write_bytes(whole)

    after = lab.random.randrange(BLOCKS // 2)
    computed: list[Event] = []

    def strike(event: Event) -> None:
        computed.append(event)
        if sum(isinstance(event, BlockDone) for event in computed) == after:
            damage(chunk, lab.random)

    first = int(chunk.name) * X_CHUNK
    hit = {k // COLUMNS for k in range(first, first + X_CHUNK)}
    lab.fault(f"X: a chunk {NAMES[damage]}", 2)
    try:
        finished = cn.run(lab.job, listener=strike)
    except IncompleteError as error:
        assert set(error.failures) <= hit
        assert "checksum" in str(error) or "read" in str(error), str(error)
        assert lab.look() == "writing"
    else:
        # Its blocks were done by then
        assert finished.state == "complete"
    chunk.write_bytes(whole)
    lab.finish()


NAMES = {flip: "with a bit flipped", truncate: "cut short", delete: "deleted"}


@pytest.mark.rounds(2)
@pytest.mark.parametrize("damage", [flip, truncate, delete], ids=lambda f: f.__name__)
def test_store_damaged(lab: Lab, damage: Any) -> None:
    """Verify names each block and array that is hit, and --repair mends it."""
    cn.run(lab.job)
    arrays = [
        "jacobian",
        "jacobian",
        "value",
        "norm",
        "mean_blocks",
        "mean",
        "W1",
        "b1",
        "W2",
        "b2",
    ]
    hit = set()
    for array in lab.random.sample(arrays, 7):
        shard = lab.random.choice(sorted(p for p in (lab.store / array).rglob("*")
                                         if p.is_file() and p.name != "zarr.json"))  # fmt: skip
        if shard in hit:
            continue
        hit.add(shard)
        damage(shard, lab.random)
        lab.fault(f"output: a shard {NAMES[damage]}")
    found = cn.verify(lab.store)
    assert not found.sound
    failed = {(failure.array, failure.block) for failure in found.failures}
    for shard in hit:
        array = shard.relative_to(lab.store).parts[0]
        per_block = array in ("jacobian", "value", "norm", "mean_blocks")
        block = int(shard.name.split(".")[1]) if per_block else None
        assert block in found.missing or (array, block) in failed or array_named(array, failed)
    lab.finish("--repair")
    assert cn.verify(lab.store).sound


def array_named(array: str, failed: set[tuple[str, int | None]]) -> bool:
    return any(block is None and array in names.split(", ") for names, block in failed)


@pytest.mark.rounds(2)
def test_store_damaged_while_it_is_written(lab: Lab) -> None:
    """What was done before is deleted or damaged, and the run does not see it: repair does."""
    driver = lab.start()
    damages = [flip, truncate, delete]
    while lab.some_moment(driver, most=25, least=5):
        shards = sorted((lab.store / "jacobian").glob("c.*.0.0"))
        damage = lab.random.choice(damages)
        damage(lab.random.choice(shards), lab.random)
        lab.fault(f"output: a shard {NAMES[damage]} during the run")
    driver.ended(0, 3)
    lab.finish("--repair")
