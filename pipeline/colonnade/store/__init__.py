"""The Zarr group that a run makes: create it, write a block, list what is there, finish it."""

from colonnade.store.store import (
    KEY,
    Holder,
    InputRecord,
    Lease,
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
    "Holder",
    "InputRecord",
    "Lease",
    "RunLog",
    "Status",
    "Store",
    "hold",
    "holder",
    "input_record",
    "network_record",
]
