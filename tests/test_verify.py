"""Verifying stores that were really computed and really damaged, and repairing them bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import yaml
import zarr
from distributed import LocalCluster

import colonnade as cn
from colonnade.errors import IncompleteError, InputError, StoreError, UsageError
from colonnade.events import BlockChecked, BlockDamaged, BlockDone, RunFinished, RunStarted
from colonnade.store import Store
from colonnade.verification.verification import _chosen
from support import N, P, Q, make_columns, make_network, save_network
from test_cli import colonnade
from test_run import bits

pytestmark = pytest.mark.shared_cluster

C, B = 3, 12  # columns of a chunk and of a block
BLOCKS = 9  # the last of them with 5 columns, in two of its four chunks
PRODUCTS = ["jacobian", "value", "norm", "mean"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify")
    save_network(path / "network.npz", make_network())
    np.save(path / "X.npy", make_columns())
    return path


@pytest.fixture(scope="module")
def make(place: Path) -> Any:
    """Make a job on a cluster that all runs here share."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster:

        def make_job(path: Path, **output: Any) -> dict[str, Any]:
            return {
                "network": {"weights": str(place / "network.npz"), "activation": "tanh"},
                "input": {"path": str(place / "X.npy")},
                "output": {
                    "path": str(path),
                    "block_size": B * Q * N * 4,
                    "chunk_size": C * Q * N * 4,
                    "products": PRODUCTS,
                    **output,
                },
                "cluster": {"kind": "address", "address": cluster.scheduler_address, "workers": 2},
            }

        yield make_job


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, make: Any, place: Path) -> tuple[Path, str]:
    """Return a store that nothing is wrong with, and its compression: none unless asked for."""
    compression = getattr(request, "param", "none")
    path = place / f"{compression}.zarr"
    assert cn.run(make(path, compression=compression)).blocks == BLOCKS
    return path, compression


compressed = pytest.mark.parametrize("whole", ["none", "zstd"], indirect=True)


@pytest.fixture
def store(whole: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "out.zarr"))


@pytest.fixture
def repaired(make: Any, whole: tuple[Path, str], store: Path) -> Callable[[], list[Any]]:
    """Repair the store and return the events, once it is bit by bit what it was."""

    def repair() -> list[Any]:
        events: list[Any] = []
        job = make(store, compression=whole[1])
        finished = cn.run(job, repair=True, listener=events.append)
        assert finished.state == "complete"
        assert bits(store) == bits(whole[0])
        assert cn.verify(store).sound
        return events

    return repair


def computed(events: list[Any]) -> list[int]:
    return sorted(event.block for event in events if isinstance(event, BlockDone))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


@compressed
def test_a_sound_store(store: Path, repaired: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    checked: list[Any] = []
    found = cn.verify(store, listener=checked.append)
    assert found.sound
    found.require()
    assert (found.missing, found.damaged, found.failures, found.refused) == ((), (), (), None)
    assert found.shards == 4 * BLOCKS + 5
    assert found.chunks == 3 * BLOCKS + 34 + 5
    assert (found.sampled, found.sums) == (64, {"mean_blocks": BLOCKS})
    assert set(found.errors) == {*PRODUCTS, "mean_blocks"}
    assert 0 < max(found.errors.values()) <= 1
    assert checked[-1] == BlockChecked(BLOCKS - 1, 96, P, P)
    assert [event.block for event in checked] == list(range(BLOCKS))
    assert "all is right" in str(found)
    events = repaired()
    assert computed(events) == []
    assert [type(e) for e in events if not isinstance(e, BlockChecked)] == [RunStarted, RunFinished]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_a_sound_store_asks_for_no_cluster(store: Path, make: Any, whole: Any) -> None:
    job = make(store, compression=whole[1])
    job["cluster"] = {"kind": "address", "address": "tcp://127.0.0.1:9"}
    assert cn.run(job, repair=True).blocks_computed == 0


# Damage to bytes: what it does, and the array, block and columns that it must be found in


def flipped_in_a_chunk(store: Path) -> None:
    flip(store / "jacobian" / "c.3.0.0", 5)


def flipped_in_the_index(store: Path) -> None:
    flip(store / "jacobian" / "c.3.0.0", -9)


def truncated(store: Path) -> None:
    path = store / "jacobian" / "c.3.0.0"
    path.write_bytes(path.read_bytes()[:-100])


def emptied(store: Path) -> None:
    (store / "jacobian" / "c.3.0.0").write_bytes(b"")


def left_out_of_the_index(store: Path) -> None:
    """The checksum of the index is right; a reader takes the chunk for NaN."""
    path = store / "jacobian" / "c.3.0.0"
    data = path.read_bytes()
    index = np.frombuffer(data[-68:-4], "<u8").copy()
    index[2:4] = 2**64 - 1
    crc = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    path.write_bytes(data[:-68] + index.tobytes() + crc)


def flipped_in_the_last_block(store: Path) -> None:
    flip(store / "jacobian" / "c.8.0.0", 9)


def flipped_value(store: Path) -> None:
    flip(store / "value" / "c.0.0", -1)


def truncated_norm(store: Path) -> None:
    path = store / "norm" / "c.1"
    path.write_bytes(path.read_bytes()[:7])


def flipped_mean_blocks(store: Path) -> None:
    flip(store / "mean_blocks" / "c.5.0.0", 3)


# Wrong numbers with right checksums: only the sample finds them


def change(store: Path, name: str, spoil: Callable[[np.ndarray], Any]) -> None:
    """Change an array; the shards of other blocks are left as they are."""
    array = zarr.open_group(store, mode="r+")[name]
    assert isinstance(array, zarr.Array)
    before, values = (np.asarray(array[...]) for _ in range(2))
    spoil(values)
    rows = (array.shards or array.chunks)[0]
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        if not np.array_equal(before[part], values[part], equal_nan=before.dtype.kind == "f"):
            array[part] = values[part]


def a_wrong_entry(store: Path) -> None:
    def spoil(T: np.ndarray) -> None:
        T[P - 1].flat[np.abs(T[P - 1]).argmax()] *= 1.001

    change(store, "jacobian", spoil)


def a_negative_block(store: Path) -> None:
    change(store, "jacobian", lambda T: np.negative(T[24:36], out=T[24:36]))


def two_columns_exchanged(store: Path) -> None:
    def spoil(T: np.ndarray) -> None:
        T[[0, 1]] = T[[1, 0]]

    change(store, "jacobian", spoil)


def a_wrong_norm(store: Path) -> None:
    change(store, "norm", lambda norms: norms.__setitem__(0, norms[0] * 1.001))


def a_wrong_value(store: Path) -> None:
    change(store, "value", lambda Y: Y.__setitem__((0, 2), np.nan))


def a_wrong_mean_blocks(store: Path) -> None:
    change(store, "mean_blocks", lambda sums: sums.__setitem__((4, 2, 1), sums[4, 2, 1] + 0.01))


Damage = dict[Callable[[Path], None], tuple[str, int, tuple[int, int]]]
BYTES: Damage = {
    flipped_in_a_chunk: ("jacobian", 3, (36, 39)),
    flipped_in_the_index: ("jacobian", 3, (36, 48)),
    truncated: ("jacobian", 3, (36, 48)),
    emptied: ("jacobian", 3, (36, 48)),
    left_out_of_the_index: ("jacobian", 3, (36, 48)),
    flipped_in_the_last_block: ("jacobian", 8, (96, 99)),
    flipped_value: ("value", 0, (0, 12)),
    truncated_norm: ("norm", 1, (12, 24)),
    flipped_mean_blocks: ("mean_blocks", 5, (60, 72)),
}
NUMBERS: Damage = {
    a_wrong_entry: ("jacobian", 8, (100, 101)),
    a_negative_block: ("jacobian", 2, (24, 36)),
    two_columns_exchanged: ("jacobian", 0, (0, 2)),
    a_wrong_norm: ("norm", 0, (0, 1)),
    a_wrong_value: ("value", 0, (0, 1)),
    a_wrong_mean_blocks: ("mean_blocks", 4, (48, 60)),
}


def check_and_repair(
    found: cn.Verification, array: str, block: int, repaired: Callable[[], list[Any]]
) -> None:
    assert not found.sound
    assert found.state == "complete"
    assert {(failure.array, failure.block) for failure in found.failures} == {(array, block)}
    with pytest.raises(IncompleteError, match=rf"block {block} \(column.*--repair") as caught:
        found.require()
    assert set(caught.value.failures) == {block}
    events = repaired()
    assert computed(events) == [block]
    assert {event.block for event in events if isinstance(event, BlockDamaged)} == {block}


@pytest.mark.parametrize("damage", BYTES, ids=lambda damage: damage.__name__)
def test_damaged_bytes(damage: Any, store: Path, repaired: Any) -> None:
    array, block, (start, stop) = BYTES[damage]
    damage(store)
    found = cn.verify(store, columns=0)
    assert [(failure.start, failure.stop) for failure in found.failures] == [(start, stop)]
    check_and_repair(found, array, block, repaired)


@pytest.mark.parametrize("whole", ["zstd"], indirect=True)
@pytest.mark.parametrize(
    "damage", [d for d in BYTES if BYTES[d][0] == "jacobian"], ids=lambda damage: damage.__name__
)
def test_damaged_bytes_of_compressed_chunks(damage: Any, store: Path, repaired: Any) -> None:
    array, block, (start, stop) = BYTES[damage]
    damage(store)
    found = cn.verify(store, columns=0)
    assert [(failure.start, failure.stop) for failure in found.failures] == [(start, stop)]
    check_and_repair(found, array, block, repaired)


@pytest.mark.parametrize("damage", NUMBERS, ids=lambda damage: damage.__name__)
def test_wrong_numbers(damage: Any, store: Path, repaired: Any) -> None:
    array, block, (start, stop) = NUMBERS[damage]
    damage(store)
    found = cn.verify(store)
    assert all(start <= failure.start < failure.stop <= stop for failure in found.failures)
    assert found.errors[array] > 1
    check_and_repair(found, array, block, repaired)


def flipped_mean(store: Path) -> None:
    flip(store / "mean" / "c.0.0", 3)


def removed_mean(store: Path) -> None:
    (store / "mean" / "c.0.0").unlink()


def a_wrong_mean(store: Path) -> None:
    change(store, "mean", lambda mean: mean.__setitem__((1, 2), mean[1, 2] * 1.001))


def flipped_weight(store: Path) -> None:
    flip(store / "W1" / "c" / "0" / "0", 3)


def removed_bias(store: Path) -> None:
    (store / "b1" / "c" / "0").unlink()


def another_weight(store: Path) -> None:
    change(store, "W2", lambda U: U.__setitem__((0, 0), 1))


@pytest.mark.parametrize(
    ("damage", "array"),
    [
        (flipped_mean, "mean"),
        (removed_mean, "mean"),
        (a_wrong_mean, "mean"),
        (flipped_weight, "W1"),
        (removed_bias, "b1"),
        (another_weight, "W2"),
    ],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_arrays_that_belong_to_no_block(
    damage: Any, array: str, store: Path, repaired: Any
) -> None:
    damage(store)
    found = cn.verify(store)
    assert found.damaged == ()
    assert [failure.block for failure in found.failures] == [None]
    assert array in found.failures[0].array
    weights = array != "mean"
    assert (found.sampled == 0) == weights
    assert ("the weights are damaged" in str(found.refused)) == weights
    with pytest.raises(IncompleteError, match=rf"is damaged: .*{array}.*--repair"):
        found.require()
    assert computed(repaired()) == []


def test_wrong_numbers_are_found_though_the_weights_are_damaged(store: Path, repaired: Any) -> None:
    """`verify` has no others, but a job that is to be repaired brings its own."""
    another_weight(store)
    a_negative_block(store)
    assert cn.verify(store).damaged == ()
    assert computed(repaired()) == [2]


def test_removed_shards_are_missing(store: Path, repaired: Any) -> None:
    (store / "jacobian" / "c.3.0.0").unlink()
    (store / "norm" / "c.4").unlink()
    flipped_value(store)
    found = cn.verify(store)
    assert (found.state, found.missing, found.damaged) == ("damaged", (3, 4), (0,))
    assert "blocks 3–4 (columns 36–59)" in str(found)
    with pytest.raises(IncompleteError) as caught:
        found.require()
    assert caught.value.failures[3] == "missing"
    assert set(caught.value.failures) == {0, 3, 4}
    assert computed(repaired()) == [0, 3, 4]


def test_an_unfinished_store(store: Path, make: Any, whole: Any, repaired: Any) -> None:
    for name in ("jacobian", "norm"):
        key = "c.6.0.0" if name == "jacobian" else "c.6"
        (store / name / key).unlink()
    (store / "mean" / "c.0.0").unlink()
    attributes = zarr.open_group(store, mode="r+")
    attributes.update_attributes(
        {"colonnade": {**attributes.attrs["colonnade"], "state": "writing"}}
    )
    found = cn.verify(store)
    assert (found.state, found.missing, found.failures) == ("writing", (6,), ())
    with pytest.raises(IncompleteError, match=r"blocks 6 \(columns 72–83\) are missing; every"):
        found.require()

    two_columns_exchanged(store)
    flipped_in_a_chunk(store)
    assert cn.verify(store).damaged == (0, 3)
    # Without being told to, a run looks at what is missing alone
    plain = cn.run(make(store, compression=whole[1]))
    assert (plain.state, plain.blocks_computed) == ("complete", 1)
    assert cn.verify(store).damaged == (0, 3)
    assert computed(repaired()) == [0, 3]


def test_a_store_that_is_not_there_is_made(make: Any, whole: Any, tmp_path: Path) -> None:
    job = make(tmp_path / "new.zarr", compression=whole[1])
    assert cn.run(job, repair=True).blocks_computed == BLOCKS
    assert bits(tmp_path / "new.zarr") == bits(whole[0])


def test_repairing_and_overwriting_exclude_each_other(make: Any, store: Path) -> None:
    before = bits(store)
    with pytest.raises(UsageError, match="either repaired or overwritten"):
        cn.run(make(store), repair=True, overwrite=True)
    assert bits(store) == before


@pytest.mark.parametrize("changed", [False, True], ids=["gone", "changed"])
def test_without_its_x_checksums_are_still_checked(
    changed: bool, make: Any, tmp_path: Path
) -> None:
    X = make_columns()
    path, job = tmp_path / "X.npy", make(tmp_path / "out.zarr")
    np.save(path, X)
    job["input"]["path"] = str(path)
    cn.run(job)
    if changed:
        X[0, 50] += 1
        np.save(path, X)
    else:
        path.unlink()
    found = cn.verify(tmp_path / "out.zarr")
    assert (found.sampled, found.sums, found.failures, found.sound) == (0, {}, (), False)
    assert found.shards == 4 * BLOCKS + 5
    told = "not the X that the store was made from" if changed else "X cannot be read"
    with pytest.raises(InputError, match=f"all checksums are right, but .*{told}") as raised:
        found.require()
    assert not str(raised.value).endswith("..")
    assert "everything checked is right, but not everything could be checked" in str(found)
    flipped_in_a_chunk(tmp_path / "out.zarr")
    with pytest.raises(IncompleteError, match="block 3"):
        cn.verify(tmp_path / "out.zarr").require()


@pytest.mark.parametrize("damaged", ["zarr.json", "jacobian/zarr.json", "norm/zarr.json"])
def test_damaged_metadata(damaged: str, store: Path) -> None:
    path = store / damaged
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(StoreError, match=r"no store of colonnade|the store's array .* is damaged"):
        cn.verify(store)


def test_metadata_of_another_shape(store: Path) -> None:
    path = store / "value" / "zarr.json"
    document = json.loads(path.read_text())
    document["shape"][0] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"its array value has .*\(102, 3\).*\(101, 3\)"):
        cn.verify(store)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("products", [["value"], ["norm"], ["mean"], ["jacobian", "mean"]])
def test_other_products(make: Any, tmp_path: Path, products: list[str], dtype: str) -> None:
    job = make(tmp_path / "out.zarr", products=products, dtype=dtype)
    cn.run(job)
    found = cn.verify(tmp_path / "out.zarr")
    assert found.sound, found
    assert set(found.errors) == {*products, *(["mean_blocks"] if "mean" in products else [])}
    name = products[0]
    change(tmp_path / "out.zarr", name, lambda T: T.__setitem__(0, -T[0]))
    assert {failure.array for failure in cn.verify(tmp_path / "out.zarr").failures} == {name}


def test_rounded_mantissas(make: Any, tmp_path: Path) -> None:
    cn.run(make(tmp_path / "out.zarr", compression="zstd", significant_bits=7))
    found = cn.verify(tmp_path / "out.zarr")
    assert found.sound, found
    assert found.errors["jacobian"] > 0.5


def test_nan_and_inf(make: Any, tmp_path: Path) -> None:
    X = make_columns()
    X[2, 0], X[1, 40], X[:, 100] = np.nan, np.inf, 3e38
    np.save(tmp_path / "X.npy", X)
    job = make(tmp_path / "out.zarr")
    job["input"]["path"] = str(tmp_path / "X.npy")
    cn.run(job)
    found = cn.verify(tmp_path / "out.zarr", columns=P)
    assert found.sound, found
    assert (found.sampled, found.covered, found.unknown) == (P, P, 2)
    assert "2 may overflow, so any value is accepted" in str(found)
    change(tmp_path / "out.zarr", "jacobian", lambda T: T.__setitem__(0, 0))
    found = cn.verify(tmp_path / "out.zarr")
    assert [(f.array, f.start, f.stop) for f in found.failures] == [("jacobian", 0, 1)]
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["errors"]["jacobian"] is None


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("layout", ["dense", "factored"])
def test_results_that_overflow(make: Any, tmp_path: Path, layout: str) -> None:
    """J = 1e60 is infinite in float32: right, and not to be computed again and again."""
    network = cn.Network([[1e30, 0]], None, [[1e30], [1]], None, "identity")
    save_network(tmp_path / "network.npz", network)
    np.save(tmp_path / "X.npy", np.full((2, 7), 1e-30, np.float32))
    products = ["jacobian", "value", "norm", "spectral_norm", "mean", "mean_abs", "max_abs", "gram"]
    job = make(tmp_path / "out.zarr", products=products, layout=layout)
    job["network"] = {"weights": str(tmp_path / "network.npz"), "activation": "identity"}
    job["input"] = {"path": str(tmp_path / "X.npy")}
    cn.run(job)
    found = cn.verify(tmp_path / "out.zarr")
    assert found.sound, found
    assert cn.run(job, repair=True).blocks_computed == 0
    change(tmp_path / "out.zarr", "norm", lambda norms: norms.__setitem__(3, 1e30))
    found = cn.verify(tmp_path / "out.zarr")
    assert [(f.array, f.start, f.stop) for f in found.failures] == [("norm", 3, 4)]
    assert "is 1.00000002e+30, but must not be finite" in found.failures[0].cause


def test_the_sample(store: Path) -> None:
    """All columns are compared; the sample has the first, the last and one of each part."""

    def noticed(column: int, **options: Any) -> bool:
        change(store, "norm", lambda norms: norms.__setitem__(column, -norms[column]))
        found = cn.verify(store, **options)
        change(store, "norm", lambda norms: norms.__setitem__(column, -norms[column]))
        return not found.sound

    assert noticed(0, columns=2)
    assert noticed(P - 1, columns=2)
    # The others as well, whichever are compared number by number
    assert all(noticed(50, columns=1, seed=seed) for seed in range(3))
    assert not noticed(0, columns=0)
    grid = Store.open(store).grid
    chosen = [
        {k for columns in _chosen(grid, set(), 11, seed).values() for k in columns}
        for seed in range(30)
    ]
    assert all({0, P - 1} <= columns for columns in chosen)
    assert 0 < sum(50 in columns for columns in chosen) < 30
    # Another seed draws other vectors
    errors = [cn.verify(store, columns=11, seed=seed).errors["jacobian"] for seed in (4, 5)]
    assert errors[0] != errors[1]
    assert cn.verify(store, columns=11, seed=4) == cn.verify(store, columns=11, seed=4)
    assert cn.verify(store, columns=11).sampled == 11
    assert cn.verify(store, columns=1).sampled == 1
    assert cn.verify(store, columns=10**6).sampled == P
    with pytest.raises(UsageError, match="0 or more"):
        cn.verify(store, columns=-1)


def test_the_commands(store: Path, make: Any, whole: Any, tmp_path: Path) -> None:
    sound = colonnade("verify", store)
    assert sound.returncode == 0, sound.stderr
    assert f"{P} of {P} compared through a random product, 64 number by number" in sound.stdout
    assert sound.stdout.endswith("all is right\n")
    flipped_in_a_chunk(store)
    damaged = colonnade("verify", store, "--json", "--columns", "5", "--seed", "3")
    assert damaged.returncode == 3
    said = json.loads(damaged.stdout)
    assert (said["damaged"], said["sound"], said["sampled"]) == ([3], False, 5)
    assert said["failures"][0]["array"] == "jacobian"
    assert "block 3 (columns 36 to 38), jacobian: " in damaged.stderr
    assert "colonnade run --repair JOB" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(make(store, compression=whole[1])))
    repair = colonnade("run", "--repair", job)
    assert repair.returncode == 0, repair.stderr
    assert "1 of 9 blocks computed" in repair.stdout
    assert "block 3: columns 36 to 38 damaged: jacobian" in repair.stderr
    assert bits(store) == bits(whole[0])
    assert colonnade("verify", tmp_path).returncode == 2


def test_a_run_that_meets_damage_at_its_end_names_the_remedy(make, tmp_path) -> None:
    """The mean is made of the slope sums of all blocks, of which another run has made some."""
    job = make(tmp_path / "out.zarr")
    cn.run(job)
    whole = bits(tmp_path / "out.zarr")
    (tmp_path / "out.zarr" / "jacobian" / "c.4.0.0").unlink()
    (tmp_path / "out.zarr" / "mean_blocks" / "c.2.0.0").write_bytes(b"x")
    with pytest.raises(IncompleteError, match=r"damaged: .* --repair JOB"):
        cn.run(job)
    cn.run(job, repair=True)
    assert bits(tmp_path / "out.zarr") == whole


def test_a_statistic_that_has_gone_is_missed(store: Path) -> None:
    (store / "mean" / "c.0.0").unlink()
    status = Store.open(store).status()
    assert (status.state, status.missing, status.absent) == ("damaged", (), ("mean",))
    assert status.as_dict()["absent"] == ["mean"]
    assert "missing   mean" in str(status)
    with pytest.raises(IncompleteError, match=r"9 of 9 blocks are there .*, but mean is not"):
        cn.open(store)
    with cn.open(store, incomplete=True) as ds:
        assert np.isnan(ds["mean"]).all()
        assert "mean is not" in ds.attrs["incomplete"]


def test_columns_are_chosen_among_those_that_are_there(store: Path) -> None:
    for block in (0, *range(2, BLOCKS - 1)):
        (store / "jacobian" / f"c.{block}.0.0").unlink()
    found = cn.verify(store, columns=17)
    # A whole block and the last one
    assert (found.sampled, found.failures) == (17, ())
    assert "everything stored is right, but the store is not finished" in str(found)
    assert cn.verify(store, columns=100).sampled == B + P % B
