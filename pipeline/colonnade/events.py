"""What happens during a run, as small values; how they are shown is `progress`'s matter."""

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
    """The store is there; `blocks_done` of its `blocks` were found finished."""

    store: str
    columns: int
    columns_done: int
    blocks: int
    blocks_done: int


@dataclass(frozen=True, slots=True)
class FeaturesOrdered:
    """X's features are matched by name, and taken in the network's order, which is another.

    `moved` of its `features` have another number in X, at `input`; `names` are the first of them
    all, in the network's order.
    """

    input: str
    features: int
    moved: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HolderWatched:
    """Another run holds the store; for so many `seconds` it is watched for a sign of life."""

    store: str
    holder: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StoreGrown:
    """X has more columns than the store had, which now has as many: `blocks_new` more blocks.

    `blocks_again` is 1 where the last of the old blocks is to be computed again, since it ended
    where X did.
    """

    store: str
    columns_before: int
    columns: int
    blocks_new: int
    blocks_again: int


@dataclass(frozen=True, slots=True)
class StoreLabelled:
    """A store has other names and scales than before: those that it has now."""

    store: str
    names: tuple[str, ...]
    scales: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterExposed:
    """The processes of a `cluster` take orders from whoever reaches them; `reason` says why."""

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClusterReady:
    """Workers have arrived; `dashboard` is an address, or a word on why there is none."""

    kind: str
    workers: int
    threads: int
    dashboard: str


@dataclass(frozen=True, slots=True)
class WaitingForWorkers:
    """So many workers of a `cluster` are `missing` of those `wanted`, for up to `seconds`."""

    cluster: str
    missing: int
    wanted: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NoWorkers:
    """All workers have gone; for so many `seconds` the run waits for one."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """For so many `seconds` no block was done; `workers` are the addresses of those that have some.

    They may be busy with tasks of others. One that hangs is replaced: see `WorkerReplaced`.
    """

    seconds: float
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerReplaced:
    """The worker at an address made no progress for so many `seconds`, and is replaced.

    Other workers take its blocks. `blocks` are those that it is stuck at, as far as that is known;
    `cause` says how it is stuck.
    """

    worker: str
    seconds: float
    blocks: tuple[int, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """A signal came; blocks in flight have so many `seconds` to finish, and no other is begun."""

    signum: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BlockDone:
    """A worker's receipt for one block: columns `start` to `stop` are in the store.

    Times in seconds, sizes in bytes. `started` and `ended` are seconds since the epoch on the
    worker's clock; `peak_memory` is the largest resident set of the worker's process so far;
    `nonfinite` counts the columns of X that hold NaN or an infinity, `nonfinite_results` those
    whose results do. `touched`: as for `InputTouched`, by what the worker has seen of X.
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
        """Columns of the block."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class InputTouched:
    """Somebody wrote to X during the run, and the values of which its fingerprint is are the same.

    The others, of an X that is too large to be compared whole, may have changed.
    """

    input: str


@dataclass(frozen=True, slots=True)
class InputChanged:
    """X has changed during the run; `blocks` that may be of another X have been discarded."""

    input: str
    cause: str
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockFailed:
    """A block that could not be computed, and why; the others go on."""

    block: int
    start: int
    stop: int
    cause: str


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """What is stored of columns `start` to `stop`, of so many `columns`, has been verified."""

    block: int
    start: int
    stop: int
    columns: int


@dataclass(frozen=True, slots=True)
class BlockDamaged:
    """What is stored of columns `start` to `stop` is wrong, and will be computed again.

    `block` is None where it is not of one block: a weight, or the mean.
    """

    block: int | None
    start: int
    stop: int
    cause: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The end of a run that was not interrupted.

    `bytes_written` and `seconds` are this run's own; `peak_memory` is the largest worker's;
    `nonfinite` counts the columns of X that hold NaN or an infinity in all blocks that are done,
    `nonfinite_results` those whose results do (of a store that was made before these were counted,
    in the blocks of this run); `nonfinite_statistics` names the statistics that do; `columns_new`
    are those by which the store has grown.
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
    """Listen to nothing."""
