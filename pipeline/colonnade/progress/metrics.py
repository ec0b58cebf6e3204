"""Metrics in Prometheus' text format, for node-exporter's textfile collector."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from colonnade.errors import ColonnadeError, UsageError, import_optional
from colonnade.events import (
    BlockChecked,
    BlockDamaged,
    BlockDone,
    BlockFailed,
    ClusterReady,
    Event,
    Listener,
    RunFinished,
    RunStarted,
)
from colonnade.limits import METRICS_BYTES
from colonnade.storage.regularfiles import read_regular, replace

__all__ = ["measuring"]

# Seconds between two versions of the file while the only events are those of blocks
_EVERY = 5.0

_MANY = (BlockChecked, BlockDamaged, BlockDone, BlockFailed)

_METRICS = {
    "colonnade_up": "Whether a run of the job is active: 1, and 0 after its end.",
    "colonnade_start_timestamp_seconds": "When the last run began.",
    "colonnade_run_seconds": "How long the last run has taken so far.",
    "colonnade_columns": "Columns of the store.",
    "colonnade_columns_done": "Columns of the store that are computed.",
    "colonnade_blocks": "Blocks of the store.",
    "colonnade_blocks_done": "Blocks of the store that are computed.",
    "colonnade_blocks_failed": "Blocks that the last run could not compute.",
    "colonnade_written_bytes": "Bytes of numbers that the last run has written.",
    "colonnade_nonfinite_columns": "Columns of X that were found to hold NaN or an infinity.",
    "colonnade_nonfinite_result_columns": "Columns whose results hold NaN or an infinity.",
    "colonnade_workers": "Workers of the last run's cluster when it began.",
    "colonnade_exit_status": "Exit status of the last run that has ended.",
    "colonnade_last_success_timestamp_seconds": "When a run last completed the store.",
}
# Metrics that are kept from former runs
_KEPT = ("colonnade_exit_status", "colonnade_last_success_timestamp_seconds")


@contextmanager
def measuring(path: str, name: str, listener: Listener) -> Iterator[Listener]:
    """Yield a listener that maintains a file of metrics and passes each event on.

    Parameters
    ----------
    path
        The file; each update replaces it atomically.
    name
        Value of the metrics' only label, which distinguishes jobs whose files share a folder.

    Raises
    ------
    UsageError
        The file cannot be written, or prometheus_client is not installed.
    """
    message = "--metrics needs prometheus_client"
    import_optional("prometheus_client", "metrics", UsageError, message)
    file = _File(Path(path), name)
    try:
        file.write()
    except OSError as error:
        raise UsageError(
            f"{path}: the metrics cannot be written: {error.strerror}. Choose another path for "
            "--metrics."
        ) from error

    def count(event: Event) -> None:
        file.count(event)
        listener(event)

    status = 1
    try:
        yield count
        status = 0
    except ColonnadeError as error:
        status = error.exit_status
        raise
    except KeyboardInterrupt:
        status = 130
        raise
    finally:
        file.end(status)


class _File:
    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._since = time.monotonic()
        self._next = 0.0
        self._values = self._former() | {
            "colonnade_up": 1.0,
            "colonnade_start_timestamp_seconds": time.time(),
        }

    def count(self, event: Event) -> None:
        values = self._values
        if isinstance(event, RunStarted):
            values |= {
                "colonnade_columns": event.columns,
                "colonnade_columns_done": event.columns_done,
                "colonnade_blocks": event.blocks,
                "colonnade_blocks_done": event.blocks_done,
                "colonnade_blocks_failed": 0,
                "colonnade_written_bytes": 0,
                "colonnade_nonfinite_columns": 0,
                "colonnade_nonfinite_result_columns": 0,
            }
        elif isinstance(event, ClusterReady):
            values["colonnade_workers"] = event.workers
        elif isinstance(event, BlockDone):
            values["colonnade_columns_done"] += event.columns
            values["colonnade_blocks_done"] += 1
            values["colonnade_written_bytes"] += event.bytes_written
            values["colonnade_nonfinite_columns"] += event.nonfinite
            values["colonnade_nonfinite_result_columns"] += event.nonfinite_results
        elif isinstance(event, BlockFailed):
            values["colonnade_blocks_failed"] += 1
        elif isinstance(event, RunFinished):
            values["colonnade_nonfinite_columns"] = event.nonfinite
            values["colonnade_nonfinite_result_columns"] = event.nonfinite_results
        if not isinstance(event, _MANY) or time.monotonic() >= self._next:
            # A full disk, for instance, must not end the run
            with suppress(OSError):
                self.write()

    def end(self, status: int) -> None:
        self._values |= {"colonnade_up": 0.0, "colonnade_exit_status": status}
        if status == 0:
            self._values["colonnade_last_success_timestamp_seconds"] = time.time()
        with suppress(OSError):
            self.write()

    def write(self) -> None:
        self._next = time.monotonic() + _EVERY
        self._values["colonnade_run_seconds"] = time.monotonic() - self._since
        client = import_module("prometheus_client")
        registry = client.CollectorRegistry()
        for metric, message in _METRICS.items():
            if metric in self._values:
                gauge = client.Gauge(metric, message, ["name"], registry=registry)
                gauge.labels(self._name).set(self._values[metric])
        replace(self._path, client.generate_latest(registry))

    def _former(self) -> dict[str, Any]:
        """Read the metrics of former runs from the file, if it exists and is ours."""
        parser = import_module("prometheus_client.parser")
        try:
            text = read_regular(self._path, METRICS_BYTES).decode()
            families = list(parser.text_string_to_metric_families(text))
        except (OSError, ValueError):
            return {}
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if sample.name in _KEPT and sample.labels == {"name": self._name}
        }
