"""Submit `colonnade run` to the cluster's own queue, for unattended work, and follow the job."""

from colonnade.submit.submission import (
    Submission,
    prepare,
)

__all__ = [
    "Submission",
    "prepare",
]
