"""`colonnade doctor`: what an environment would run with."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from dask.system import CPU_COUNT
from packaging.requirements import Requirement

from colonnade.doctor import Extra, doctor, make_extra
from test_cli import colonnade


def test_what_is_here() -> None:
    done = colonnade("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"]["numpy"] == np.__version__
    assert found["local"]["workers"] == CPU_COUNT
    assert found["blas"]
    extras = {extra["name"]: extra for extra in found["extras"]}
    assert extras["hdf5"] == {
        "name": "hdf5", "installed": {"h5py": h5py.__version__}, "lacking": [],
    }  # fmt: skip
    assert {"cloud", "kubernetes", "torch"} <= set(extras)
    assert not {"bench", "dev", "test"} & set(extras)
    told = colonnade("doctor").stdout
    assert f"h5py {h5py.__version__}" in told
    assert "kind: local" in told


def test_an_extra_that_is_not_whole() -> None:
    asked = [Requirement(text) for text in ("numpy>=2", "numpy>=99", "no-such-package>=1")]
    extra = make_extra("some", asked)
    assert extra == Extra(
        "some", {"numpy": np.__version__},
        (f"numpy>=99 (installed: {np.__version__})", "no-such-package"),
    )  # fmt: skip
    assert str(extra).endswith("no-such-package: pip install 'colonnade[some]'")


def test_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert not doctor().advice
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    (advice,) = doctor().advice
    assert advice.startswith("OPENBLAS_CORETYPE=Haswell is set")
