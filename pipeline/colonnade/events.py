"""Events of a run, as small values; `progress` decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "BlockChecked",
    "BlockDamaged",
    "BlockDone",
    "BlockFailed",
    "ClusterExposed",
    "ClusterReady",
    "Event",
    "FeaturesOrdered",
    "HolderWatched",
    "InputChanged",
    "InputTouched",
    "Listener",
    "NoWorkers",
    "RunFinished",
    "RunStarted",
    "Stalled",
    "Stopping",
    "StoreGrown",
    "StoreLabelled",
    "WaitingForWorkers",
    "WorkerReplaced",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The store is open; `blocks_done` of its `blocks` were already finished."""

    store: str
    columns: int
    columns_done: int
    blocks: int
    blocks_done: int


@dataclass(frozen=True, slots=True)
class FeaturesOrdered:
    """X's features are matched by name and reordered to the network's order.

    `moved` of the `features` have another number in X, which is at `input`; `names` are the first
    features in the network's order.
    """

    input: str
    features: int
    moved: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HolderWatched:
    """Another run holds the store; for `seconds`, this run waits for its heartbeat."""

    store: str
    holder: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StoreGrown:
    """X has gained columns, and the store has grown to `columns` by `blocks_new` blocks.

    `blocks_again` is 1 if the last of the old blocks must be recomputed, because it ended where X
    did.
    """

    store: str
    columns_before: int
    columns: int
    blocks_new: int
    blocks_again: int


@dataclass(frozen=True, slots=True)
class StoreLabelled:
    """The names or scales of a store have changed; `names` and `scales` are the new ones."""

    store: str
    names: tuple[str, ...]
    scales: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterExposed:
    """Anyone who can reach a `cluster` can run code on it; `reason` says why."""

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClusterReady:
    """Workers have arrived; `dashboard` is its address, or the reason why there is none."""

    kind: str
    workers: int
    threads: int
    dashboard: str


@dataclass(frozen=True, slots=True)
class WaitingForWorkers:
    """`missing` of the `wanted` workers of a `cluster` are awaited for up to `seconds`."""

    cluster: str
    missing: int
    wanted: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NoWorkers:
    """All workers are lost; the run waits up to `seconds` for a new one."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """No block was done for `seconds`; `workers` are the addresses of the workers with blocks.

    They may be busy with other users' tasks. A worker that hangs is replaced: `WorkerReplaced`.
    """

    seconds: float
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerReplaced:
    """The worker at an address made no progress for `seconds`, and is replaced.

    Other workers take its blocks. `blocks` are those at which it is stuck, as far as is known;
    `cause` says how it is stuck.
    """

    worker: str
    seconds: float
    blocks: tuple[int, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """A signal arrived; blocks in flight have `seconds` to finish, and no new block starts."""

    signum: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BlockDone:
    """A worker's receipt for one block: columns `start` to `stop` are in the store.

    Times in seconds, sizes in bytes. `started` and `ended` are seconds since the epoch on the
    worker's clock; `peak_memory` is the largest resident set of the worker's process so far;
    `nonfinite` counts the columns of X that hold NaN or an infinity, `nonfinite_results` those
    whose results do. `touched`: the worker found that X was written to, as in `InputTouched`.
    """

    block: int
    start: int
    stop: int
    seconds_read: float
    seconds_compute: float
    seconds_write: float
    started: float
    ended: float
    bytes_written: int
    nonfinite: int
    peak_memory: int
    process: str
    nonfinite_results: int = 0
    touched: bool = False

    @property
    def columns(self) -> int:
        """Number of columns of the block."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class InputTouched:
    """X was written to during the run, but the values in its fingerprint are the same.

    In an X that is too large to be compared whole, other values may have changed.
    """

    input: str


@dataclass(frozen=True, slots=True)
class InputChanged:
    """X changed during the run; `blocks` that may come from the changed X were discarded."""

    input: str
    cause: str
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockFailed:
    """A block could not be computed, because of `cause`; the run continues with the others."""

    block: int
    start: int
    stop: int
    cause: str


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """The stored results of columns `start` to `stop`, out of `columns`, have been verified."""

    block: int
    start: int
    stop: int
    columns: int


@dataclass(frozen=True, slots=True)
class BlockDamaged:
    """The stored results of columns `start` to `stop` are wrong and will be recomputed.

    `block` is None if the damage is not in one block: in a weight, or in the mean.
    """

    block: int | None
    start: int
    stop: int
    cause: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run has ended without being interrupted.

    `bytes_written` and `seconds` are this run's own; `peak_memory` is the largest worker's;
    `nonfinite` counts the columns of X that hold NaN or an infinity in all blocks that are done,
    `nonfinite_results` those whose results do (in a store made before these were counted, only in
    the blocks of this run); `nonfinite_statistics` names the statistics that do; `columns_new` is
    the number of columns by which the store has grown.
    """

    store: str
    state: str
    columns: int
    blocks: int
    blocks_computed: int
    blocks_failed: int
    bytes_written: int
    nonfinite: int
    seconds: float
    peak_memory: int
    columns_new: int = 0
    nonfinite_results: int = 0
    nonfinite_statistics: tuple[str, ...] = ()


Event = (
    RunStarted
    | FeaturesOrdered
    | HolderWatched
    | StoreGrown
    | StoreLabelled
    | ClusterExposed
    | ClusterReady
    | WaitingForWorkers
    | NoWorkers
    | Stalled
    | WorkerReplaced
    | Stopping
    | InputTouched
    | InputChanged
    | BlockDone
    | BlockFailed
    | BlockChecked
    | BlockDamaged
    | RunFinished
)
Listener = Callable[[Event], None]


def ignore(event: Event, /) -> None:
    """Ignore an event."""
