"""The report: what it says is what the store holds, and a browser shows it without a word."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import colonnade as cn
from colonnade.reporting import draw
from colonnade.reporting.summary import Part, summarise
from colonnade.store.history import RunLog
from support import N, P, Q, make_columns, make_network, needs, save_network

pytestmark = pytest.mark.shared_cluster


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Stores by their products, each made once."""
    folder = tmp_path_factory.mktemp("report")
    save_network(folder / "network.npz", make_network())
    X = make_columns()
    np.save(folder / "X.npy", X)
    X[2, 11] = np.nan
    np.save(folder / "nan.npy", X)

    def store(*products: str, x: str = "X") -> Path:
        path = folder / f"{'-'.join(products)}-{x}.zarr"
        if not path.exists():
            cn.run(
                {
                    "network": {"weights": str(folder / "network.npz"), "activation": "tanh"},
                    "input": {"path": str(folder / f"{x}.npy")},
                    "output": {
                        "path": str(path),
                        "products": list(products),
                        "block_size": 13 * Q * N * 4,
                    },
                    "cluster": {"kind": "local", "workers": 1},
                }
            )
        return path

    return store


def pictures(page: str) -> list[np.ndarray[Any, Any]]:
    """The numbers that the page's heat maps show, in their order."""
    found = re.findall(r'data-values="([^"]*)"', page)
    return [np.frombuffer(base64.b64decode(values), "<f4") for values in found]


def test_shows_what_is_stored(stored: Callable[..., Path], tmp_path: Path) -> None:
    path = stored("jacobian", "norm", "mean")
    page = cn.report(path, tmp_path / "page.html").read_text()
    with cn.open(path) as ds:
        T = ds.jacobian.values.astype(np.float64)
        norms = ds.norm.values
        mean = ds.mean.values if isinstance(ds.mean, np.ndarray) else ds["mean"].values
    shown = pictures(page)
    np.testing.assert_array_equal(shown[0].reshape(Q, N), mean)
    np.testing.assert_allclose(shown[1].reshape(Q, N), np.abs(T).mean(axis=0), rtol=1e-6)
    largest = np.argsort(norms)[::-1][:6]
    for k, block in zip(largest, shown[2:], strict=True):
        np.testing.assert_array_equal(block.reshape(Q, N), T[k].astype(np.float32))
        assert f"column {k}, ‖J‖" in page
    assert f"{P}" in page
    assert page.count("Estimated from 101 columns") == 2  # mean |J| and the spectrum
    assert "Found among" not in page


def test_estimates_agree_with_definitions(stored: Callable[..., Path]) -> None:
    path = stored("jacobian")
    found = summarise(path)
    with cn.open(path) as ds:
        T = ds.jacobian.values.astype(np.float64)
    assert isinstance(found.mean, Part)
    assert isinstance(found.norms, Part)
    assert isinstance(found.spectrum, Part)
    page = cn.report(path, path.parent / "estimates.html").read_text()
    assert page.count("Estimated from 101 columns") == 4
    assert "Found among 101 columns" in page
    # With 101 columns, the sample is all of them
    assert found.mean.sampled == P
    np.testing.assert_allclose(found.mean.values, T.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.norms.values, np.linalg.norm(T, axis=(1, 2)), rtol=1e-12)
    gram = np.einsum("kij,kil->jl", T, T) / P
    values, vectors = np.linalg.eigh(gram)
    scale = values[-1]
    np.testing.assert_allclose(found.spectrum.values, values[::-1], atol=1e-12 * scale)
    assert abs(found.direction @ vectors[:, -1]) == pytest.approx(1)


def test_without_the_tensor(stored: Callable[..., Path], tmp_path: Path) -> None:
    page = cn.report(stored("norm", "mean"), tmp_path / "page.html").read_text()
    assert len(pictures(page)) == 1
    assert "Norms over the columns" in page
    assert "largest norms" not in page


def test_warns_of_columns_that_are_not_finite(stored: Callable[..., Path], tmp_path: Path) -> None:
    path = stored("jacobian", "norm", "mean", x="nan")
    page = cn.report(path, tmp_path / "page.html").read_text()
    assert "NaN or infinite values are in 1 column of X" in page
    with cn.open(path) as ds:
        k = int(np.nanargmax(ds.norm.values))
    assert f"column {k}, ‖J‖" in page
    assert "column 11, ‖J‖" not in page


def test_of_a_store_that_is_not_whole(tmp_path: Path, job: Callable[..., dict[str, Any]]) -> None:
    cn.run(job())
    path = Path(job()["output"]["path"])
    (path / "jacobian" / "c.3.0.0").unlink()
    page = cn.report(path, tmp_path / "page.html").read_text()
    assert "The store is incomplete: 7 of 8 blocks" in page


def test_of_a_damaged_store(tmp_path: Path, job: Callable[..., dict[str, Any]]) -> None:
    path = Path(cn.run(job()).store)
    shard = path / "jacobian" / "c.3.0.0"
    content = bytearray(shard.read_bytes())
    content[11] ^= 16
    shard.write_bytes(content)
    with pytest.raises(cn.IncompleteError, match=r"is damaged: .*checksum.*colonnade verify"):
        cn.report(path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_text_from_the_job_is_escaped(tmp_path: Path, job: Callable[..., dict[str, Any]]) -> None:
    evil = tmp_path / "<script>alert('x')<"
    evil.mkdir()
    cn.run(job(output={"path": str(evil / "o&<b>.zarr")}))
    page = cn.report(evil / "o&<b>.zarr", tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert html.escape("o&<b>.zarr") in page


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(cn.StoreError, match="there is no store"):
        cn.report(tmp_path / "none.zarr", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written(stored: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(cn.UsageError, match=r"none.page\.html: the report cannot be written"):
        cn.report(stored("norm", "mean"), tmp_path / "none" / "page.html")


def test_no_planted_link_is_followed(stored: Callable[..., Path], tmp_path: Path) -> None:
    """A folder may be others' as well: what they name like a file in the making stays theirs."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    page = tmp_path / "page.html"
    planted = page.with_name(f"{page.name}.{os.getpid()}.partial")
    planted.symlink_to(mine)
    cn.report(stored("norm", "mean"), page)
    assert mine.read_text() == "precious"
    assert not page.is_symlink()
    assert "</html>" in page.read_text()
    # No link of a name that could be foreseen has gone, either, and nothing is left behind
    assert sorted(tmp_path.iterdir()) == [mine, page, planted]
    # As others may read what is made by open()
    mask = os.umask(0o027)
    try:
        assert cn.report(stored("norm", "mean"), page).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(mask)


PROBE = """
<script>
const messages = [];
window.addEventListener("error", event => messages.push(event.message));
window.addEventListener("load", () => {
  const image = document.querySelector("svg.heat image"), box = image.getBoundingClientRect();
  image.dispatchEvent(new PointerEvent("pointermove", {
    clientX: box.left + box.width * 2.5 / COLUMNS, clientY: box.top + box.height * 1.5 / ROWS }));
  const wide = document.documentElement.scrollWidth > window.innerWidth;
  const drawings = [...document.querySelectorAll("svg")];
  const shown = drawings.every(svg => svg.getBoundingClientRect().height > 40);
  const hint = document.getElementById("hint").textContent;
  document.title = JSON.stringify({ hint, wide, shown, messages });
});
</script>
"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(stored: Callable[..., Path], tmp_path: Path, width: int, dark: bool) -> None:
    needs("chromium", "apt-get install chromium")
    path = stored("jacobian", "norm", "mean")
    page = cn.report(path, tmp_path / "page.html")
    probe = PROBE.replace("COLUMNS", str(N)).replace("ROWS", str(Q))
    page.write_text(page.read_text().replace("<main>", probe + "<main>"))
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
            *(["--force-dark-mode"] if dark else []), "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    told = html.unescape(re.search("<title>(.*?)</title>", done.stdout).group(1))  # type: ignore[union-attr]
    with cn.open(path) as ds:
        value = float(ds["mean"].values[1, 2])
    assert json.loads(told) == {
        "hint": f"output 1, input 2: {value:#.4g}", "wide": False, "shown": True, "messages": []
    }  # fmt: skip


def test_needs_nothing_from_elsewhere(stored: Callable[..., Path], tmp_path: Path) -> None:
    page = cn.report(stored("jacobian"), tmp_path / "page.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", page)


def test_the_history_of_a_long_run_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals double when a run outlasts them, and no column is lost."""
    log = RunLog()
    for k in range(10_007):
        log._count(k * 0.31, 3)
    monkeypatch.setattr("time.monotonic", lambda: log._clock + 10_007 * 0.31)
    record = log.record()
    assert sum(record.columns_by_interval) == 3 * 10_007
    assert len(record.columns_by_interval) <= 64
    assert record.interval == 64.0
    assert len(set(record.columns_by_interval[:-1])) <= 2


def test_large_matrices_are_thinned_by_magnitude() -> None:
    matrix = np.zeros((513, 700))
    matrix[512, 699], matrix[0, 0] = -7, 3
    values, rows, columns = draw._thinned(matrix)
    assert (rows, columns) == (3, 3)
    assert values.shape == (171, 234)
    assert (values[0, 0], values[-1, -1]) == (3, -7)


def test_a_store_keeps_its_runs(job: Callable[..., dict[str, Any]]) -> None:
    cn.run(job())
    record = zarr.open_group(job()["output"]["path"], mode="r").attrs["colonnade"]
    (run,) = record["runs"]
    assert run["columns"] == P == sum(run["columns_by_interval"])
    assert run["blocks"] == 8
    assert (run["workers"], run["cluster"], run["failed"]) == (2, "address", 0)
