"""Check a store: all checksums, and every column against an independent derivative."""

from colonnade.verification.findings import Failure, Verification
from colonnade.verification.verification import check, verify

__all__ = [
    "Failure",
    "Verification",
    "check",
    "verify",
]
