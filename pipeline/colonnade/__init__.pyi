from .compute.jacobian import forward, jacobian, slopes
from .errors import (
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
from .network.activations import Activation, activation
from .network.network import Network
from .reading.backend import open  # noqa: A004
from .reading.operators import column_derivative, operator
from .reporting.page import report
from .running.calibrate import plan
from .running.materialize import materialize
from .running.run import run
from .verification.findings import Verification
from .verification.verification import verify

__version__: str

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
