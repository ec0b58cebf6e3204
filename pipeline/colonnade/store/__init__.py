"""The Zarr group that a run makes: create it, write a block, list what is there, finish it."""

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
