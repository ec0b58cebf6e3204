"""The Zarr group that a run makes: create it, write its blocks, list them, finish it."""

from colonnade.store.history import RunLog
from colonnade.store.lease import Lease, LeaseOwner, hold, holder
from colonnade.store.metadata import KEY
from colonnade.store.record import InputRecord, input_record, network_record
from colonnade.store.status import Status
from colonnade.store.store import Store

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
