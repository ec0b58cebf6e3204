"""Jacobians of neural networks, column by column, at any width.

import colonnade as cn
network = cn.Network.load("weights.npz", activation="gelu")
T = cn.jacobian(network, X)      # X (n, p), NumPy or Dask, gives (p, q, n) of the same kind
cn.run("job.yaml")
ds = cn.open("out.zarr")         # xarray.Dataset, lazy
A = cn.operator("out.zarr")      # SciPy LinearOperator, blockdiag(J_1 … J_p), never formed
"""

from __future__ import annotations

from colonnade.signals import interrupts

# What follows takes a second or so
interrupts.expect()

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from colonnade.compute.jacobian import forward, jacobian, slopes
from colonnade.errors import (
    ClusterError,
    ColonnadeError,
    IncompleteError,
    InputError,
    JobError,
    NetworkError,
    StoppedError,
    StoreError,
    TooLargeError,
    UsageError,
)
from colonnade.network.activations import Activation, activation
from colonnade.network.network import Network
from colonnade.running.calibrate import plan
from colonnade.running.materialize import materialize
from colonnade.running.run import run
from colonnade.verification import Verification, verify

if TYPE_CHECKING:
    from colonnade.reading import open  # noqa: A004
    from colonnade.reading.operators import column_derivative, operator
    from colonnade.reporting import report

__version__ = version("colonnade")

__all__ = [
    "Activation",
    "ClusterError",
    "ColonnadeError",
    "IncompleteError",
    "InputError",
    "JobError",
    "Network",
    "NetworkError",
    "StoppedError",
    "StoreError",
    "TooLargeError",
    "UsageError",
    "Verification",
    "activation",
    "column_derivative",
    "forward",
    "jacobian",
    "materialize",
    "open",
    "operator",
    "plan",
    "report",
    "run",
    "slopes",
    "verify",
]

# xarray and pandas behind it cost as long to import as all the rest; workers never need them
_LAZY = {
    "column_derivative": "colonnade.reading.operators",
    "open": "colonnade.reading",
    "operator": "colonnade.reading.operators",
    "report": "colonnade.reporting",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
