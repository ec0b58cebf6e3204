"""Stores of strangers: to open one sends nothing of the reader's to where its job points."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import colonnade as cn
from colonnade.errors import ColonnadeError
from colonnade.reading import Backend
from support import N, P, Q, make_columns, make_network, no_files, refusal, save_network

pytestmark = pytest.mark.shared_cluster

SECRET = "c2VjcmV0LW9mLXRoZS1yZWFkZXI="  # noqa: S105
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Listener:
    """A server on loopback that keeps every byte it is sent, and has nothing."""

    def __init__(self, answer: Callable[[bytes], bytes] = lambda _: NOT_FOUND) -> None:
        self.connections = 0
        self.received = b""
        self._answer = answer

    def __enter__(self) -> Listener:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.endpoint = f"http://{self.address}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with client, suppress(OSError):
                client.settimeout(5)
                asked = b""
                while b"\r\n\r\n" not in asked and (part := client.recv(65536)):
                    asked += part
                    self.received += part
                client.sendall(self._answer(asked))


@dataclass(frozen=True)
class Reader:
    """What the reader's environment has: credentials, and what shows that they were sent."""

    scheme: str
    environment: dict[str, str]
    seen: tuple[bytes, ...]
    own: str


AWS = {"AWS_ACCESS_KEY_ID": "AKIDREADER", "AWS_SECRET_ACCESS_KEY": SECRET}
AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "reader"}
READERS = {
    "s3 key": Reader("s3", AWS, (b"AKIDREADER", b"Signature="), "AWS_ENDPOINT_URL"),
    "s3 token": Reader(
        "s3", AWS | {"AWS_SESSION_TOKEN": "session-token-of-the-reader"},
        (b"session-token-of-the-reader", b"Signature="), "AWS_ENDPOINT_URL",
    ),
    "az key": Reader(
        "az", AZURE | {"AZURE_STORAGE_ACCOUNT_KEY": SECRET}, (b"authorization: SharedKey reader:",),
        "AZURE_STORAGE_ENDPOINT",
    ),
    "az token": Reader(
        "az", AZURE | {"AZURE_STORAGE_TOKEN": "bearer-of-the-reader"}, (b"Bearer bearer-of-the-",),
        "AZURE_STORAGE_ENDPOINT",
    ),
    "az signature": Reader(
        "az", AZURE | {"AZURE_STORAGE_SAS_KEY": "sv=2025-01-01&sig=signature-of-the-reader"},
        (b"sig=signature-of-the-reader",), "AZURE_STORAGE_ENDPOINT",
    ),
    "gs key": Reader("gs", {}, (b"authorization: Bearer ey",), "GOOGLE_BASE_URL"),
    "gs token": Reader(
        "gs", {"GOOGLE_BEARER_TOKEN": "bearer-of-the-reader"}, (b"Bearer bearer-of-the-reader",),
        "GOOGLE_BASE_URL",
    ),
}  # fmt: skip
CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "IDENTITY_", "MSI_")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account of Google's, with a private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("account") / "account.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account", "client_email": "reader@example.org", "client_id": "1",
                "private_key": written.decode(), "private_key_id": "1", "project_id": "reader",
            }
        )
    )  # fmt: skip
    return path


@pytest.fixture(params=READERS)
def reader(
    request: pytest.FixtureRequest, account: Path, monkeypatch: pytest.MonkeyPatch
) -> Reader:
    found = READERS[request.param]
    no_credentials(monkeypatch)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    if request.param == "gs key":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    return found


def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(CLOUDS)]:
        monkeypatch.delenv(name)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        yield listening


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared_cluster: dict[str, Any]) -> Path:
    """A folder with a store of each layout."""
    folder = tmp_path_factory.mktemp("made")
    save_network(folder / "network.npz", make_network())
    np.save(folder / "X.npy", make_columns())
    for layout in ("dense", "factored"):
        cn.run(
            {
                "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
                "input": {"path": str(folder / "X.npy")},
                "output": {
                    "path": str(folder / f"{layout}.zarr"), "layout": layout,
                    "products": ["jacobian", "norm"], "block_size": 13 * Q * N * 4,
                },
                "cluster": shared_cluster,
            }
        )  # fmt: skip
    return folder


@pytest.fixture
def stores(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "stores"))


def change(store: Path, section: str, **values: Any) -> None:
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["colonnade"]["job"][section].update(values)
    (store / "zarr.json").write_text(json.dumps(document))


def point(stores: Path, scheme: str, endpoint: str) -> None:
    """Make both stores say that all that they were made of lies at an endpoint."""
    options = {"storage_options": {"endpoint": endpoint, "allow_http": True}}
    for store in (stores / "dense.zarr", stores / "factored.zarr"):
        change(store, "network", weights=f"{scheme}://bucket/network.npz", **options)
        change(store, "input", path=f"{scheme}://bucket/X.npy", **options)
        change(store, "output", path=f"{scheme}://bucket/out.zarr", **options)


def on(cluster: dict[str, Any]) -> list[str]:
    return [f"cluster.{key}={value}" for key, value in cluster.items()]


def in_python(stores: Path, cluster: dict[str, Any]) -> None:
    """All that opens a store, in Python."""
    for layout in ("dense", "factored"):
        store = stores / f"{layout}.zarr"
        assert cn.open(store).jacobian.values.shape == (P, Q, N)
        assert xr.open_dataset(store, engine=Backend).jacobian.values.shape == (P, Q, N)
        A = cn.operator(store)
        assert (A @ np.ones(A.shape[1])).shape == (P * Q,)
        assert cn.column_derivative(store, 3).shape == (Q, P, N)
        assert cn.report(store, stores / "page.html").exists()
        found = cn.verify(store)
        assert (found.sampled, found.failures) == (0, ())
        assert found.refused
    for repair in (False, True):
        done = cn.materialize(
            stores / "factored.zarr", stores / "made.zarr", on(cluster), repair=repair
        )
        assert done.state == "complete"


def test_nothing_arrives(
    reader: Reader, listener: Listener, stores: Path, shared_cluster: dict[str, Any]
) -> None:
    point(stores, reader.scheme, listener.endpoint)
    in_python(stores, shared_cluster)
    assert (listener.connections, listener.received) == (0, b"")
    told = str(cn.verify(stores / "dense.zarr").refused)
    assert f"{reader.scheme}://bucket/X.npy" in told
    assert "--trust" in told
    assert reader.own in told


def test_with_trust_it_does(reader: Reader, listener: Listener, stores: Path) -> None:
    """So that the listener is known to hear what it must not hear."""
    point(stores, reader.scheme, listener.endpoint)
    assert "bucket/X.npy" in str(cn.verify(stores / "dense.zarr", trust=True).refused)
    for mark in reader.seen:
        assert mark in listener.received


def test_the_server_that_the_reader_names_is_asked(
    reader: Reader, listener: Listener, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other: in the environment, or in Python by storage_options."""
    point(stores, reader.scheme, listener.endpoint)
    store = stores / "dense.zarr"
    with Listener() as own:
        options = {"endpoint": own.endpoint, "allow_http": True}
        assert "bucket/X.npy" in str(cn.verify(store, storage_options=options).refused)
        for mark in reader.seen:
            assert mark in own.received
    with Listener() as own:
        monkeypatch.setenv(reader.own, own.endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        told = str(cn.verify(store).refused)
        assert "The storage_options of the store's job were not used. If you trust the job" in told
        for mark in reader.seen:
            assert mark in own.received
    assert listener.connections == 0


def test_what_is_no_file_is_not_waited_for(stores: Path, tmp_path: Path) -> None:
    """A job may name any path of the reader's machine."""
    special = [*map(str, no_files(tmp_path)), "/dev/zero", "/dev/stdin", "/proc/self/mem", "/"]
    (tmp_path / "pipe.npy").symlink_to("no files/pipe")
    for path in (*special, str(tmp_path / "pipe.npy")):
        change(stores / "dense.zarr", "input", path=path)
        found = cn.verify(stores / "dense.zarr")
        assert (found.sampled, found.failures) == (0, ())
        assert "X cannot be read" in str(found.refused)


def test_a_machine_s_role_is_not_asked_for(
    listener: Listener, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment has no credentials, the machine may: from a server of its cloud's."""
    no_credentials(monkeypatch)
    point(stores, "s3", listener.endpoint)

    def answer(asked: bytes) -> bytes:
        body = b"a-token-of-metadata"
        if asked.startswith(b"GET "):
            role = {
                "AccessKeyId": "AKIDROLE", "SecretAccessKey": SECRET, "Token": "token-of-the-role",
                "Expiration": "2099-01-01T00:00:00Z", "Code": "Success", "Type": "AWS-HMAC",
                "LastUpdated": "2025-01-01T00:00:00Z",
            }  # fmt: skip
            body = b"role" if b"credentials/ " in asked else json.dumps(role).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + body

    with Listener(answer) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        assert cn.verify(stores / "dense.zarr").refused
        assert (metadata.connections, listener.connections) == (0, 0)
        assert cn.verify(stores / "dense.zarr", trust=True).refused
        assert metadata.connections
        assert b"token-of-the-role" in listener.received


def colonnade(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "colonnade", *map(str, arguments)],
        text=True, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("reader", ["s3 token", "az token", "gs key"], indirect=True)
def test_the_commands(
    reader: Reader, listener: Listener, stores: Path, shared_cluster: dict[str, Any]
) -> None:
    point(stores, reader.scheme, listener.endpoint)
    dense, factored, made = (stores / f"{name}.zarr" for name in ("dense", "factored", "made"))
    settings = [word for setting in on(shared_cluster) for word in ("--set", setting)]
    for status, *arguments in (
        (0, "status", dense), (0, "report", dense, "-o", stores / "page.html"),
        (2, "verify", dense), (0, "materialize", factored, made, *settings),
    ):  # fmt: skip
        done = colonnade(*arguments)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert (listener.connections, listener.received) == (0, b"")
    told = colonnade("verify", dense).stderr
    assert f"{reader.scheme}://bucket/X.npy" in told
    assert "--trust" in told
    assert colonnade("verify", dense, "--trust").returncode == 2
    for mark in reader.seen:
        assert mark in listener.received


@pytest.mark.parametrize("reader", ["s3 token"], indirect=True)
def test_materialize_writes_where_the_reader_says(
    reader: Reader, listener: Listener, stores: Path, shared_cluster: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The place's name is the reader's; how it is reached, the store's job's if that is trusted."""
    point(stores, reader.scheme, listener.endpoint)
    slopes, place = stores / "factored.zarr", "s3://bucket/made.zarr"
    for options, overrides in (
        ({"endpoint": None}, ()), (None, ("endpoint", "allow_http")), (None, ())
    ):  # fmt: skip
        with Listener() as own:
            said = {"endpoint": own.endpoint, "allow_http": True}
            sets = [f"output.storage_options.{key}={said[key]}" for key in overrides]
            if not options and not overrides:
                monkeypatch.setenv("AWS_ENDPOINT_URL", own.endpoint)
                monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
            given = said if options else None
            refusal(
                lambda sets=sets, given=given: cn.materialize(
                    slopes, place, [*on(shared_cluster), *sets], storage_options=given
                )
            )
            assert b"session-token-of-the-reader" in own.received
    assert listener.connections == 0
    refusal(lambda: cn.materialize(slopes, place, on(shared_cluster), trust=True))
    assert b"session-token-of-the-reader" in listener.received


@pytest.mark.parametrize("cluster", [
    {"kind": "address", "address": "tcp://{}", "timeout": 1},
    {"kind": "gateway", "address": "http://{}", "timeout": 1},
], ids=lambda cluster: cluster["kind"])  # fmt: skip
def test_a_stranger_s_cluster_is_not_asked(
    cluster: dict[str, Any], listener: Listener, stores: Path, shared_cluster: dict[str, Any]
) -> None:
    slopes, place = stores / "factored.zarr", stores / "made.zarr"
    document = json.loads((slopes / "zarr.json").read_text())
    cluster = cluster | {"address": cluster["address"].format(listener.address)}
    document["attributes"]["colonnade"]["job"]["cluster"] = cluster
    (slopes / "zarr.json").write_text(json.dumps(document))
    told = refusal(lambda: cn.materialize(slopes, place))
    assert f"a cluster of kind {cluster['kind']}" in told
    assert "--trust" in told
    assert "--set cluster.kind=local" in told
    assert (listener.connections, place.exists()) == (0, False)
    assert cn.materialize(slopes, place, on(shared_cluster)).state == "complete"
    assert listener.connections == 0
    with pytest.raises(ColonnadeError):
        cn.materialize(slopes, stores / "other.zarr", trust=True)
    assert listener.connections


def test_what_is_not_secure_is_the_reader_s_word(stores: Path) -> None:
    """A store's job cannot make the reader's own cluster an open one."""
    slopes = stores / "factored.zarr"
    document = json.loads((slopes / "zarr.json").read_text())
    cluster = {"kind": "local", "workers": 1, "security": "none"}
    document["attributes"]["colonnade"]["job"]["cluster"] = cluster
    (slopes / "zarr.json").write_text(json.dumps(document))
    cn.materialize(slopes, stores / "made.zarr", ["cluster.workers=1"])
    kept = json.loads((stores / "made.zarr" / "zarr.json").read_text())
    job = kept["attributes"]["colonnade"]["job"]
    assert (job["cluster"]["workers"], job["cluster"]["security"]) == (1, "auto")


def test_what_a_store_was_made_of_is_not_passed_on(
    stores: Path, shared_cluster: dict[str, Any]
) -> None:
    """A store that is made of a stranger's is the reader's own: its job names no server."""
    point(stores, "s3", "http://localhost:9")
    made = stores / "made.zarr"
    cn.materialize(stores / "factored.zarr", made, on(shared_cluster))
    job = json.loads((made / "zarr.json").read_text())["attributes"]["colonnade"]["job"]
    assert [job[section]["storage_options"] for section in ("network", "input", "output")] == [
        None
    ] * 3
