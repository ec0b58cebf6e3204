"""Hand `colonnade run` to the cluster's own queue, for unattended work, and follow it."""

from colonnade.submit.submission import (
    Submission,
    prepare,
)

__all__ = [
    "Submission",
    "prepare",
]
