"""The plan: blocks, chunks and bytes add up, and what does not fit is refused."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colonnade.compute.products import needs_blocks
from colonnade.errors import TooLargeError
from colonnade.formatting import format_bytes, format_seconds
from colonnade.grid import Grid, Shapes
from colonnade.job import ProductName
from colonnade.planning import sizing
from colonnade.planning.plan import Capacity, Plan
from support import make_work

MIB = 2**20
PRODUCTS = get_args(ProductName)

sizes = st.sampled_from([1, 2, 3, 5, 7, 61, 127, 1021])
columns = st.integers(1, 10**4) | st.sampled_from([531_720, 10**9 + 7, 2**53 + 1])
chosen = st.sets(st.sampled_from(PRODUCTS), min_size=1).map(
    lambda products: tuple(p for p in PRODUCTS if p in products)
)
byte_sizes = st.just("auto") | st.integers(1, 2**40) | st.integers(1, 2**20)
memories = st.none() | st.integers(1, 2**34) | st.integers(200 * MIB, 600 * MIB)
requests = st.fixed_dictionaries(
    {
        "shapes": st.builds(Shapes, columns, sizes, sizes, sizes),
        "products": chosen,
        "dtype": st.sampled_from(["float32", "float64"]),
        "x_itemsize": st.sampled_from([1, 2, 4, 8]),
        "x_chunk_columns": st.sampled_from([1, 100, 10**5]),
        "working_itemsize": st.sampled_from([4, 8]),
        "kernel_bytes": st.integers(0, 2**28),
        "strip_columns": st.sampled_from([1, 7, 1024]),
        "compression": st.sampled_from(["none", "lz4"]),
        "capacity": st.builds(Capacity, st.integers(1, 99), st.integers(1, 64), memories),
        "block_size": byte_sizes,
        "chunk_size": byte_sizes,
    }
)


def make_plan(*, capacity: Capacity, grid: Grid | None = None, **request: Any) -> Plan:
    asked = sizing.PlanRequest(work=make_work(request["shapes"]), **request)
    return sizing.make_plan(asked, capacity, grid)


def planned(**changes: Any) -> Plan:
    request: dict[str, Any] = {
        "shapes": Shapes(p=101, n=5, m=7, q=3),
        "products": ("jacobian",),
        "dtype": "float32",
        "x_itemsize": 4,
        "working_itemsize": 4,
        "kernel_bytes": 1000,
        "strip_columns": 1024,
        "compression": "none",
        "capacity": Capacity(2, 1, None),
    }
    return make_plan(**(request | changes))


def roomy(request: dict[str, Any]) -> dict[str, Any]:
    """Take the memory out of a request, so that it has a plan."""
    capacity = request["capacity"]
    return request | {"capacity": Capacity(capacity.workers, capacity.threads_per_worker, None)}


@given(requests)
def test_blocks_cover_every_column_once(request) -> None:
    plan = make_plan(**roomy(request))
    grid, p = plan.grid, request["shapes"].p
    assert grid.columns == p
    assert 1 <= grid.chunk_columns <= grid.block_columns <= p
    assert grid.block_columns % grid.chunk_columns == 0
    if grid.blocks <= 10**4:
        ends = [grid.bounds(block) for block in range(grid.blocks)]
        assert ends[0][0] == 0
        assert ends[-1][1] == p
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
        lengths = [stop - start for start, stop in ends]
        assert set(lengths[:-1]) <= {grid.block_columns}
        assert 0 < lengths[-1] <= grid.block_columns
        assert grid.count(range(grid.blocks)) == p
        assert grid.count([]) == 0
        assert grid.count([grid.blocks - 1, 0]) == lengths[-1] + lengths[0]
    # also where p is beyond what a float counts
    assert (grid.blocks - 1) * grid.block_columns < p <= grid.blocks * grid.block_columns


@given(requests)
def test_a_task_writes_whole_shards(request) -> None:
    plan = make_plan(**roomy(request))
    grid, shapes = plan.grid, request["shapes"]
    length = {"column": shapes.p, "output": shapes.q, "input": shapes.n, "hidden": shapes.m,
              "block": grid.blocks, "other_input": shapes.n}  # fmt: skip
    for array in plan.arrays:
        assert array.shape == tuple(length[dimension] for dimension in array.dimensions)
        for shard, chunk in zip(array.shards, array.chunks, strict=True):
            assert shard % chunk == 0
        if array.per_block:
            # a shard a block along the first axis, and the whole of the others
            assert -(-array.shape[0] // array.shards[0]) == grid.blocks
            assert array.shards[0] == (grid.block_columns if array.dimensions[0] == "column" else 1)
            assert array.shards[1:] == array.shape[1:]
        else:
            assert array.shards == array.shape
    names = [array.name for array in plan.arrays]
    statistics = {"mean", "mean_abs", "max_abs", "gram"} & set(request["products"])
    made = {f"{name}_blocks" for name in statistics}
    made |= {"spectral_norm_max"} & {f"{name}_max" for name in request["products"]}
    assert set(names) == made | set(request["products"])
    first = min(request["products"], key=PRODUCTS.index)
    last = [array.name for array in plan.arrays if array.per_block][-1]
    assert last == (f"{first}_blocks" if first in statistics else first)


@given(shapes=st.builds(Shapes, *[st.integers(1, 13)] * 4), products=chosen,
       dtype=st.sampled_from(["float32", "float64"]), block=st.integers(1, 2000))  # fmt: skip
def test_bytes_are_those_of_the_arrays(shapes, products, dtype, block) -> None:
    plan = planned(shapes=shapes, products=products, dtype=dtype, block_size=block)
    real = {array.name: np.zeros(array.shape, array.dtype) for array in plan.arrays}
    assert {array.name: array.bytes for array in plan.arrays} == {
        name: array.nbytes for name, array in real.items()
    }
    assert plan.output_bytes == sum(array.nbytes for array in real.values())
    slices = [real[a.name][tuple(map(slice, a.shards))] for a in plan.arrays if a.per_block]
    assert plan.block_bytes == sum(part.nbytes for part in slices)
    sums = {"mean_blocks", "mean_abs_blocks", "gram_blocks"}
    assert {a.dtype for a in plan.arrays if a.name not in sums} == {dtype}


def test_bytes_are_exact_where_floats_are_not() -> None:
    p = 2**60 + 1
    plan = planned(shapes=Shapes(p=p, n=3, m=5, q=7), products=("jacobian", "norm"))
    assert plan.output_bytes == p * (3 * 7 + 1) * 4
    assert plan.block_bytes == plan.grid.block_columns * (3 * 7 + 1) * 4
    assert plan.grid.count(range(plan.grid.blocks - 1, plan.grid.blocks)) > 0


@given(requests)
def test_a_plan_fits_or_is_refused(request) -> None:
    available = request["capacity"].memory_per_worker
    one = make_plan(**roomy(request) | {"block_size": 1})
    assert one.grid.block_columns == 1
    try:
        plan = make_plan(**request)
    except TooLargeError:
        assert available is not None
        if request["block_size"] == "auto":  # then and only then where one column does not fit
            assert one.memory_needed > 0.8 * available
        else:
            assert make_plan(**roomy(request)).memory_needed > 0.8 * available
        return
    assert plan.memory_needed == sum(plan.memory.values()) == plan.as_dict()["memory"]["needed"]
    assert available is None or plan.memory_needed <= 0.8 * available
    if request["block_size"] != "auto":
        assert plan.grid == make_plan(**roomy(request)).grid
    assert plan == make_plan(**request)


@given(requests)
def test_memory_grows_by_the_column_and_the_thread(request) -> None:
    """Memory is fixed + threads × (columns × bytes of a column + strip × bytes), term by term."""
    request = roomy(request) | {"chunk_size": 1}
    plan = make_plan(**request)
    threads = request["capacity"].threads_per_worker
    s, item, x = request["shapes"], 8 if request["dtype"] == "float64" else 4, request["x_itemsize"]
    work = request["working_itemsize"]
    block = min(plan.grid.block_columns, s.p)
    strip = min(block, request["strip_columns"])
    # whole chunks of X: those of the block, and one that the next block begins with
    chunk = min(request["x_chunk_columns"], s.p)
    held = 0 if chunk == 1 else min(math.ceil(block / chunk + 1) * chunk, s.p)
    terms = {
        "columns of X": s.n * ((block + held) * x + strip * work),
        "hidden units": 4 * s.m * work * strip,
        "tensor block": s.q * s.n * item * block,
        "encoding": 2 * s.q * s.n * item * block,
        "values": s.q * (block * item + 2 * strip * work),
    }
    if "jacobian" not in request["products"]:
        del terms["tensor block"], terms["encoding"]
    elif request["compression"] == "none":
        del terms["encoding"]
    if "value" not in request["products"]:
        del terms["values"]
    if set(request["products"]) - {"jacobian", "value"}:
        outer = ((8 + item) * s.m + 8 * s.n) * s.m if "gram" in request["products"] else 0
        kept = sum(
            math.prod(a.shards) * (8 if a.dtype == "float64" else 4)
            for a in plan.arrays
            if a.dimensions[:1] == ("block",)
        )
        terms["products"] = (
            kept
            + 2 * item * block
            + outer
            + len(set(request["products"]) - {"jacobian", "value"})
            * (8 * s.q * s.n + 3 * min(2**20, 8 * s.m * strip))
        )
    fixed = {"process": 90 * MIB, "weights and kernel": request["kernel_bytes"]}
    if needs_blocks(request["products"], "dense"):
        # A tile of one column is always whole, and computed where it is stored, if it is
        (fixed if "jacobian" in request["products"] else terms)["tensor tile"] = s.q * s.n * item
    assert plan.memory == fixed | {term: threads * size for term, size in terms.items()}


@given(requests)
def test_explicit_sizes_are_kept_to(request) -> None:
    plan = make_plan(**roomy(request))
    s, itemsize = request["shapes"], 8 if request["dtype"] == "float64" else 4
    dense = "jacobian" in request["products"]
    column = itemsize * (s.q * s.n if dense else max(s.n, s.m, s.q))
    block, chunk = plan.grid.block_columns, plan.grid.chunk_columns
    if request["block_size"] != "auto":
        most = min(max(request["block_size"] // column, 1), s.p)
        # as many columns as fit, down to whole chunks
        assert most - chunk < block <= most
    elif column <= MIB:
        parts = sum(
            math.prod(a.shards) * (8 if a.dtype == "float64" else 4)
            for a in plan.arrays
            if a.dimensions[:1] == ("block",)
        )
        # Where sums are kept of each block, a block is large beside them
        assert block * column <= max(64 * MIB, 8 * parts + column)
    if dense and request["chunk_size"] != "auto":
        assert chunk == min(max(request["chunk_size"] // column, 1), block)
    if not dense:
        assert chunk == block  # nothing is cut finer than a block


def test_automatic_blocks() -> None:
    def grid(p: int, **changes: Any) -> Grid:
        return planned(shapes=Shapes(p=p, n=32, m=8, q=16), **changes).grid

    # a column takes 2 KiB: 64 MiB a block, 16 MiB a chunk, where there are columns enough
    assert grid(10**7) == Grid(10**7, 32768, 8192)
    # 32 blocks where there are fewer, of one MiB at the least, in one chunk
    assert grid(32 * 1009) == Grid(32 * 1009, 1009, 1009)
    assert grid(601) == Grid(601, 512, 512)
    assert grid(13) == Grid(13, 13, 13)
    # and what the memory holds: 80% of it, less 90 MiB, 1000 bytes, a tile, and each thread's strip
    strip = 1024 * (32 * 4 + 4 * 8 * 4)
    room = int(((0.8 * 300 * MIB - 90 * MIB - 1000 - 2048) / 3 - strip) / (32 * 4 + 2048))
    small = Capacity(2, 3, 300 * MIB)
    assert grid(10**7, capacity=small, chunk_size=1) == Grid(10**7, room, 1)
    assert grid(10**7, capacity=small, chunk_size=11 * 2048) == Grid(10**7, room // 11 * 11, 11)


@given(requests, st.integers(1, 10**4), st.integers(1, 50))
def test_the_grid_of_a_store_is_kept(request, chunk, chunks) -> None:
    grid = Grid(request["shapes"].p, chunk * chunks, chunk)
    plan = make_plan(**roomy(request), grid=grid)
    assert plan.grid == grid
    other = roomy(request) | {"block_size": 12345, "chunk_size": 77}
    assert make_plan(**other, grid=grid) == plan


@given(p=st.integers(1, 400), chunk=st.integers(1, 450), block=st.integers(1, 60),
       workers=st.integers(1, 3))  # fmt: skip
def test_how_often_x_is_read(p, chunk, block, workers) -> None:
    plan = planned(shapes=Shapes(p, 5, 7, 3), x_chunk_columns=chunk, block_size=60 * block,
                   chunk_size=1, capacity=Capacity(workers, 1, None))  # fmt: skip
    columns, chunk = min(plan.batch * plan.grid.block_columns, p), min(chunk, p)
    # tasks and chunks that end where X does make the prediction exact
    whole = math.lcm(columns, chunk)
    touched = sum(
        -(-(start + columns) // chunk) - start // chunk for start in range(0, whole, columns)
    )
    # A thread keeps a chunk of which it needs more
    assert plan.x_reads == pytest.approx(min(touched * chunk / whole, workers))
    assert ("warning" in str(plan)) == (plan.x_reads >= 2)


def test_batches_spare_the_scheduler() -> None:
    shapes = Shapes(p=10**6, n=5, m=7, q=3)
    alone = planned(shapes=shapes, block_size=60 * 100)
    # blocks of 100 columns take microseconds: several go into a task, but not so many that
    # threads would wait for the last of them
    assert alone.grid.blocks == 10**4
    assert alone.batch > 1
    assert 16 <= alone.tasks < 10**4
    assert alone.tasks_per_second <= 200
    assert planned(shapes=shapes, block_size=60 * 10**5).batch == 1
    # whole chunks of X, where there are tasks enough
    assert (
        planned(
            shapes=Shapes(10**6, 5, 2000, 3), block_size=60 * 10**4, x_chunk_columns=30_000
        ).batch
        == 3
    )


DENSE = Shapes(p=10**6, n=1009, m=101, q=1013)
COLUMN = 1009 * 8 + 4 * 101 * 4 + 3 * 1009 * 1013 * 4
TILE = 1009 * 1013 * 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"capacity": Capacity(1, 1, 90 * MIB)},
         r"of 1 column on 1 thread \(.*\), but has 90\.0 MiB, .* To fix this, raise [a-z_.]+\.$"),
        ({"capacity": Capacity(3, 1, 90 * MIB)},
         r"memory_per_worker, or lower cluster\.workers, so that each gets more memory\.$"),
        ({"capacity": Capacity(3, 2, 90 * MIB)},
         r"2 threads .*, or lower cluster\.threads_per_worker, or lower cluster\.workers, .*\.$"),
        ({"capacity": Capacity(1, 1, 2**30), "block_size": 500 * MIB},
         r"blocks of 128 columns .*, or lower output\.block_size \(now 500 MiB\)\.$"),
        ({"capacity": Capacity(1, 1, 2**30), "grid": Grid(10**6, 1024, 2)},
         r"blocks of 1,024 columns .* recreate the store \(--overwrite\) with a lower .*size\.$"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(changes, told) -> None:
    with pytest.raises(TooLargeError, match=told) as caught:
        planned(shapes=DENSE, compression="lz4", **changes)
    found = re.match(r"a worker needs (.*) for blocks of ([\d,]+) column", str(caught.value))
    threads = changes["capacity"].threads_per_worker
    # And a tile, of one column here
    held = int(found[2].replace(",", "")) * threads * COLUMN + TILE
    assert found[1] == format_bytes(90 * MIB + 1000 + held)
    for term in ("process 90.0 MiB", "weights and kernel 1,000 B", "columns of X", "hidden units",
                 "tensor block", "encoding"):  # fmt: skip
        assert term in str(caught.value)


def test_the_last_byte_decides() -> None:
    shapes = Shapes(p=1, n=1, m=1, q=1)
    needed = planned(shapes=shapes).memory_needed
    for available in range(int(needed / 0.8) - 3, int(needed / 0.8) + 4):
        fits = needed <= 0.8 * available
        try:
            planned(shapes=shapes, capacity=Capacity(1, 1, available))
        except TooLargeError:
            assert not fits
        else:
            assert fits


@given(requests)
def test_as_dict_is_json(request) -> None:
    plan = make_plan(**roomy(request))
    told = plan.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["blocks"] == plan.grid.blocks
    assert told["block_bytes"] == plan.block_bytes
    assert told["output_bytes"] == sum(array["bytes"] for array in told["arrays"])
    assert told["memory"] == {
        "needed": plan.memory_needed, "available": None, "terms": plan.memory,
    }  # fmt: skip
    assert told["shapes"] == {key: getattr(request["shapes"], key) for key in "pnmq"}


def test_as_text() -> None:
    everything = Capacity(4, 2, 8 * 2**30)
    text = str(
        planned(shapes=Shapes(531_721, 5, 7, 3), capacity=everything,
                products=("jacobian", "value", "norm", "mean"),
                block_size=60 * 10_000, chunk_size=6000)
    )  # fmt: skip
    assert text.splitlines()[:5] == [
        "columns   p = 531,721; inputs n = 5, hidden units m = 7, outputs q = 3; float32",
        "work      W2 D1 W1: 0.00021 Mflop a column, and 7e-05 for the slopes",
        "blocks    54 of 10,000 columns, 742 KiB each; chunks of 100 columns",
        "tasks     54 of 1 block",
        "output    38.5 MiB in all",
    ]
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines()}
    assert rows["jacobian"] == "jacobian column × output × input 531,721 × 3 × 5 30.4 MiB"
    assert rows["value"] == "value column × output 531,721 × 3 6.1 MiB"
    assert rows["norm"] == "norm column 531,721 2.0 MiB"
    assert rows["mean"] == "mean output × input 3 × 5 60 B"
    assert rows["mean_blocks"] == "mean_blocks block × output × input 54 × 3 × 5 6.3 KiB"
    assert re.fullmatch(r"memory a worker needs 9\d\.\d MiB of 8\.0 GiB", rows["memory"])
    told = "layouts dense 30.4 MiB, factored 14.2 MiB: factored is the smaller (output.layout)"
    assert rows["layouts"] == told
    assert rows["cluster"] == "cluster 4 × 2 (workers × threads of each)"


def test_as_text_small_and_huge() -> None:
    one = str(planned(shapes=Shapes(1, 1, 1, 1)))
    assert "blocks    1 of 1 column, 4 B each; chunks of 1 column\ntasks     1 of 1 block\n" in one
    assert "of an amount that is known when the cluster runs" in one
    huge = str(planned(shapes=Shapes(10**15, 5, 7, 3)))
    assert "p = 1,000,000,000,000,000;" in huge
    assert "output    54,570 TiB in all" in huge
    assert "tasks a second (a scheduler handles 200 and more)" in huge


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
     (100 * 1024, "100 KiB"), (64 * MIB, "64.0 MiB"), (2**30, "1.0 GiB"), (2**43, "8.0 TiB"),
     (2**60, "1,048,576 TiB"), (2**20 - 1, "1.0 MiB")],
)  # fmt: skip
def test_format_bytes(size, text) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("module", ["plan", "sizing"])
def test_it_is_arithmetic_alone(module) -> None:
    tree = ast.parse(Path(str(sys.modules[f"colonnade.planning.{module}"].__file__)).read_text())
    names = {
        str(alias.name if isinstance(node, ast.Import) else node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "colonnade"}
    ours = {name.removeprefix("colonnade.") for name in names if name.startswith("colonnade")}
    assert ours <= {"compute.products", "errors", "formatting", "grid", "planning.plan"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (2.0, "2 s"), (99.4, "99 s"), (119, "119 s"), (121, "2 min"),
     (3600, "60 min"), (7300, "2 h"), (86_399, "24 h"), (40 * 3600 + 1800, "40 h"),
     (200_000, "2.3 days")],
)  # fmt: skip
def test_format_seconds(seconds, text) -> None:
    assert format_seconds(seconds) == text
