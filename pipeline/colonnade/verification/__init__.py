"""Check a store: all checksums, and every column against an independent derivative."""

from colonnade.verification.verification import (
    Failure,
    Verification,
    check,
    verify,
)

__all__ = [
    "Failure",
    "Verification",
    "check",
    "verify",
]
