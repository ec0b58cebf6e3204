"""The Zarr group that a run makes: create it, write its blocks, list them, finish it."""

from colonnade.store.store import (
    KEY,
    InputRecord,
    Lease,
    LeaseOwner,
    RunLog,
    Status,
    Store,
    hold,
    holder,
    input_record,
    network_record,
)

__all__ = [
    "KEY",
    "InputRecord",
    "Lease",
    "LeaseOwner",
    "RunLog",
    "Status",
    "Store",
    "hold",
    "holder",
    "input_record",
    "network_record",
]
