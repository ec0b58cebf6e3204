"""The block kernel over the best square matrix product, and its peers' time over the kernel's.

    python tests/benchmarks/kernel.py [--mebibytes 32 64] [--seconds 1] [--peers …] [--shapes …]

Then networks of several hidden layers against the same two, the flops being those of the order of
products that is chosen; and a σ that mixes a column's entries, as time over that of tanh.

All sides run in one process on one core, in turn, and the median of each counts. The kernel's
flops are 2mn + 2mqn a column; its time includes W X + b, σ′ and the blocks, in the tiles and into
the shard buffer that a task uses. Peers return a new array, as they do for their users.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import (
    SHAPES,
    Shape,
    fair,
    interleaved,
    machine,
    make_chain,
    make_network,
    missing,
    table,
)

PEERS = ["jax jacrev", "jax jacfwd", "torch jacrev", "einsum"]


def kernel_side(network: Any, X: Any, dtype: Any) -> Callable[[], Any]:
    import numpy as np  # noqa: PLC0415 (after `fair`)

    from colonnade.compute.kernel.tiles import Tiles, overlapping  # noqa: PLC0415

    B = X.shape[1]
    tiles = Tiles(network, dtype, dtype)
    out = np.empty((B, network.q, network.n), dtype)

    def side() -> None:
        for _, a, b in overlapping(0, B, tiles.columns):
            tiles.blocks(tiles.slopes(X[:, a:b], a), a, out[a:b])

    return side


def peer_sides(network: Any, X: Any, names: list[str]) -> dict[str, Callable[[], Any]]:
    import numpy as np  # noqa: PLC0415

    W, b, U = network.W1, network.b1, network.W2
    columns = np.ascontiguousarray(X.T)
    sides: dict[str, Callable[[], Any]] = {}
    if any(name.startswith("jax") for name in names):
        import jax  # noqa: PLC0415
        import jax.numpy as jnp  # noqa: PLC0415

        jax.config.update("jax_enable_x64", val=True)
        Wj, bj, Uj, Xj = (jnp.asarray(a) for a in (W, b, U, columns))
        for mode in ("jacrev", "jacfwd"):
            if f"jax {mode}" in names:
                f = jax.jit(jax.vmap(getattr(jax, mode)(lambda x: Uj @ jnp.tanh(Wj @ x + bj))))
                sides[f"jax {mode}"] = lambda f=f: f(Xj).block_until_ready()
    if "torch jacrev" in names:
        import torch  # noqa: PLC0415

        torch.set_num_threads(1)
        Wt, bt, Ut, Xt = (torch.tensor(a) for a in (W, b, U, columns))
        blocks = torch.func.vmap(torch.func.jacrev(lambda x: Ut @ torch.tanh(Wt @ x + bt)))
        sides["torch jacrev"] = lambda: blocks(Xt)
    if "einsum" in names:

        def einsum() -> Any:
            S = 1 - np.tanh(columns @ W.T + b) ** 2
            return np.einsum("ih,kh,hj->kij", U, S, W, optimize=True)

        sides["einsum"] = einsum
    return sides


def measure(
    shape: Shape, dtype: Any, mebibytes: int, seconds: float, peers: list[str]
) -> list[Any]:
    import numpy as np  # noqa: PLC0415

    from colonnade.compute.kernel.tiles import tile_columns  # noqa: PLC0415

    rng = np.random.default_rng(0)
    network = make_network(shape, dtype)
    column_bytes = shape.q * shape.n * np.dtype(dtype).itemsize
    tile = tile_columns(network, dtype)
    B = max(1, mebibytes * 2**20 // column_bytes // tile) * tile
    X = rng.standard_normal((shape.n, B)).astype(dtype)
    a, c = (rng.random((1536, 1536)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    # A peer that would take minutes for a block is timed on fewer columns
    few = min(B, 4096, max(1, int(2e11 / (2 * shape.m * shape.q * shape.n))))
    sides = {
        "peak": lambda: np.matmul(a, c, out=out),
        "kernel": kernel_side(network, X, dtype),
        **peer_sides(network, X[:, :few], peers),
    }
    times = interleaved(sides, seconds)
    peak = 2 * 1536**3 / times["peak"]
    flops = 2 * shape.m * shape.n * (1 + shape.q) * B
    speed = flops / times["kernel"]
    cells = [shape, np.dtype(dtype).name, f"{mebibytes}", B, f"{speed / 1e9:.0f}"]
    ratio = f"{speed / peak:.2f}"
    return [*cells, ratio, *(f"{times[p] / few * B / times['kernel']:.1f}" for p in peers)]


def measure_chain(sizes: list[int], dtype: Any, columns: int, seconds: float) -> list[Any]:
    """A deep network against the peak, and against JAX, if it is there."""
    import numpy as np  # noqa: PLC0415

    from colonnade.compute.kernel.order import cheapest  # noqa: PLC0415

    rng = np.random.default_rng(0)
    network = make_chain(sizes, "tanh", dtype)
    X = rng.standard_normal((sizes[0], columns)).astype(dtype)
    a, c = (rng.random((1536, 1536)).astype(dtype) for _ in range(2))
    out = np.empty_like(a)
    sides = {"peak": lambda: np.matmul(a, c, out=out), "kernel": kernel_side(network, X, dtype)}
    if not missing(["jax"]):
        import jax  # noqa: PLC0415
        import jax.numpy as jnp  # noqa: PLC0415

        jax.config.update("jax_enable_x64", val=True)
        layers = [(jnp.asarray(W), jnp.asarray(b)) for W, b in network.layers]

        def forward(x: Any) -> Any:
            for W, b in layers[:-1]:
                x = jnp.tanh(W @ x + b)
            return layers[-1][0] @ x + layers[-1][1]

        blocks = jax.jit(jax.vmap(jax.jacrev(forward)))
        Xj = jnp.asarray(X.T)
        sides["jax jacrev"] = lambda: blocks(Xj).block_until_ready()
    times = interleaved(sides, seconds)
    order = cheapest(tuple(sizes))
    flops = order.flops + 2 * sum(W.size for W, _ in network.layers[:-1])
    speed = flops * columns / times["kernel"]
    ratio = f"{times['jax jacrev'] / times['kernel']:.1f}" if "jax jacrev" in times else "—"
    peak = 2 * 1536**3 / times["peak"]
    told = "-".join(map(str, sizes))
    return [told, order, np.dtype(dtype).name, columns, f"{speed / 1e9:.0f}",
            f"{speed / peak:.2f}", ratio]  # fmt: skip


def measure_mixing(shape: Shape, dtype: Any, columns: int, seconds: float) -> list[Any]:
    """The rate of σ that mix a column's entries, over that of tanh."""
    import numpy as np  # noqa: PLC0415

    X = np.random.default_rng(0).standard_normal((shape.n, columns)).astype(dtype)
    sides = {
        name: kernel_side(make_network(shape, dtype, name), X, dtype) for name in ("tanh", *MIXING)
    }
    times = interleaved(sides, seconds)
    ratios = [f"{times['tanh'] / times[name]:.2f}" for name in MIXING]
    return [shape, np.dtype(dtype).name, columns, *ratios]


MIXING = ("softmax", "log_softmax", "layer_norm", "l2_normalize")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side")
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--shapes", nargs="*", help="m,n,q …")
    parser.add_argument("--chains", nargs="*", default=["128,512,512,512,64"], help="n,m1,m2,…,q …")
    parser.add_argument("--chain-columns", type=int, default=512)
    given = parser.parse_args()
    fair(threads=1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    absent = missing({peer.split()[0] for peer in given.peers} - {"einsum"})
    for name in absent:
        print(f"left out: {name} is not installed (pip install {name})")
    peers = [peer for peer in given.peers if peer.split()[0] not in absent]
    shapes = [Shape(*map(int, s.split(","))) for s in given.shapes] if given.shapes else SHAPES
    rows = [
        measure(shape, dtype, size, given.seconds, peers)
        for dtype in given.dtypes
        for size in given.mebibytes
        for shape in shapes
    ]
    head = ["(m, n, q)", "dtype", "MiB", "columns", "GF/s", "of peak"]
    head += [f"{peer} ×" for peer in peers]
    table(f"Kernel on one core; {machine()}", head, rows)
    deep = [
        measure_chain(list(map(int, sizes.split(","))), dtype, given.chain_columns, given.seconds)
        for dtype in given.dtypes
        for sizes in given.chains
    ]
    head = ["sizes", "order", "dtype", "columns", "GF/s", "of peak", "jax jacrev ×"]
    table("Several hidden layers", head, deep)
    mixing = [
        measure_mixing(shapes[0], dtype, given.chain_columns, given.seconds)
        for dtype in given.dtypes
    ]
    head = ["(m, n, q)", "dtype", "columns", *(f"{name}, of tanh" for name in MIXING)]
    table("σ that mix a column's entries", head, mixing)


if __name__ == "__main__":
    main()
