"""The job file: what is read from it, and every way in which it is refused."""

from __future__ import annotations

import copy
import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask.array
import pandas as pd
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colonnade import job as models
from colonnade.errors import JobError
from colonnade.job import AddressCluster, Job, LocalCluster, cluster, json_schema
from colonnade.job.file import load_job
from colonnade.network.activations import ACTIVATIONS
from colonnade.storage.locations import StorageOptions
from support import N, P, make_columns, refusal

CONFIGS = [Path(__file__).parents[1] / "configs" / name for name in ("digits.yaml", "patches.yaml")]
WHOLE = """\
network:
  weights: w.npz
  activation: {name: leaky_relu, negative_slope: 1e-3}   # which YAML takes for a string
  names: {W1: fc1.weight, W2: fc2.weight, b2: fc2.bias}
  input_names: [T_850, ω, "3"]
  output_names: names.txt
input:
  path: bucket/x.nc
  array: [t, ps]
  features_dim: lev
  column_dims: [time, lat]
  columns: [0, 1000]
  features: ["t[850]", 0]
output:
  path: out.zarr
  layout: dense
  dtype: float64
  block_size: 64 MiB
  chunk_size: 2.5 kB
  compression: zstd
  significant_bits: 12
  products: [mean, jacobian, mean]
  scale: {input_std: [0, 2.5, 1e-3], output_std: std.npz}
cluster: {kind: address, address: "tls://h:8786", workers: 3, timeout: 2.5}
"""
LOCAL = {"network": {"weights": "w.npz", "activation": "tanh"}, "input": {"path": "x.npy"},
         "output": {"path": "o.zarr"}}  # fmt: skip
ADDRESS = LOCAL | {"cluster": {"kind": "address", "address": "tcp://h:1"}}
SECTIONS = {
    "network": models.NetworkSettings,
    "input": models.InputSettings, "output": models.OutputSettings,
    "output.scale": models.ScaleSettings,
}  # fmt: skip
CLUSTERS = (
    LocalCluster, AddressCluster, cluster.SlurmCluster, cluster.PbsCluster, cluster.SgeCluster,
    cluster.LsfCluster, models.SshCluster, models.KubernetesCluster, models.GatewayCluster,
)  # fmt: skip
MODELS = (
    *SECTIONS.values(), *CLUSTERS, models.TlsSettings, cluster.Adaptive, StorageOptions,
)  # fmt: skip
# One of each kind, with all that it may say
DEPLOYED = {
    **{kind: {
        "kind": kind, "workers": 3, "queue": "long", "account": "us", "walltime": "1-12:00:00",
        "cores": 2, "memory": "3 GiB", "job_extra_directives": ["--constraint=icelake"],
        "job_script_prologue": ["module load python", ". ~/env"], "interface": "ib0",
        "log_directory": "logs", "local_directory": "/scratch", "python": "python3", "timeout": 7,
    } for kind in ("slurm", "pbs", "sge", "lsf")},
    "ssh": {
        "kind": "ssh", "hosts": ["a", "b.example.org", "10.0.0.1"], "scheduler": "c", "port": 2222,
        "workers_per_host": 2, "threads_per_worker": 3, "memory_per_worker": "1 GiB",
        "username": "me", "client_keys": ["keys/mine"], "known_hosts": "keys/hosts",
        "interface": "eth1", "python": "/opt/bin/python", "local_directory": "/scratch",
    },
    "kubernetes": {
        "kind": "kubernetes", "image": "example.org/colonnade:1", "namespace": "ours", "cores": 2,
        "memory": "3 GiB", "service_account": "runner", "env": {"LEVEL": 3, "A": "b"},
        "env_from_secrets": ["s3"], "adaptive": {"minimum": 2, "maximum": 5},
    },
    "gateway": {
        "kind": "gateway", "address": "https://dask.example.org", "proxy_address": "h:8786",
        "auth": "jupyterhub", "options": {"image": "x", "cores": 2, "fast": True},
        "adaptive": {"maximum": 5},
    },
}  # fmt: skip


def job(base: dict[str, Any] = LOCAL, /, **changes: Any) -> dict[str, Any]:
    """Change a job: output__dtype=… stands for output.dtype."""
    document = copy.deepcopy(base)
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = copy.deepcopy(value)
    return document


def told(document: Any, *overrides: str) -> list[str]:
    """Return the problems of a job that must have some, a line each."""
    with pytest.raises(JobError) as caught:
        load_job(document, overrides)
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"job: {len(lines)} problem{'s' * (len(lines) > 1)}"
    assert all(line.isprintable() for line in lines)
    return lines


def test_whole_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(WHOLE)
    assert load_job(path).model_dump() == {
        "network": {
            "weights": "w.npz", "activation": {"name": "leaky_relu", "negative_slope": 0.001},
            "names": {"W1": "fc1.weight", "W2": "fc2.weight", "b2": "fc2.bias"},
            "matrices": None, "input_names": ("T_850", "ω", "3"), "output_names": "names.txt",
            "input_mean": None, "input_std": None, "output_mean": None, "output_std": None,
            "storage_options": None,
        },
        "input": {"path": "bucket/x.nc", "array": ("t", "ps"), "orientation": None,
                  "features_dim": "lev", "column_dims": ("time", "lat"), "columns": (0, 1000),
                  "features": ("t[850]", 0), "nonfinite": "propagate", "storage_options": None},
        "output": {
            "path": "out.zarr", "layout": "dense", "dtype": "float64", "block_size": 64 * 2**20,
            "chunk_size": 2500, "compression": "zstd", "significant_bits": 12,
            "products": ("jacobian", "mean"), "storage_options": None,
            "scale": {"input_std": (0, 2.5, 0.001), "output_std": "std.npz"},
        },
        "cluster": {
            "kind": "address", "address": "tls://h:8786", "workers": 3, "timeout": 2.5, "grace": 20,
            "stall_timeout": "auto",
            "tls": None,
        },
    }  # fmt: skip


def test_least_job() -> None:
    assert load_job(LOCAL).model_dump() == {
        "network": {"weights": "w.npz", "activation": {"name": "tanh"}, "names": None,
                    "matrices": None, "input_names": None, "output_names": None,
                    "input_mean": None, "input_std": None, "output_mean": None, "output_std": None,
                    "storage_options": None},
        "input": {"path": "x.npy", "array": None, "orientation": None, "features_dim": None,
                  "column_dims": None, "columns": None, "features": None,
                  "nonfinite": "propagate", "storage_options": None},
        "output": {
            "path": "o.zarr", "layout": "dense", "dtype": "float32", "block_size": "auto",
            "chunk_size": "auto", "compression": "none", "significant_bits": None,
            "products": ("jacobian",), "scale": None, "storage_options": None,
        },
        "cluster": {
            "kind": "local", "workers": "auto", "threads_per_worker": 1,
            "memory_per_worker": "auto", "timeout": 60, "grace": 20, "stall_timeout": "auto",
            "security": "auto",
            "dashboard": True,
        },
    }  # fmt: skip


def test_every_problem_in_one_report() -> None:
    lines = told(
        {
            "network": {"activation": "tahn", "names": {"w1": "a", "W2": "b"}},
            "input": {"path": "", "orientation": "columns_by_faetures"},
            "output": {"path": 3, "block_size": "lots", "products": ["mean", "jacobain"]},
            "cluster": {"workers": -2},
            "ouput": {},
        }
    )
    expected = {
        "network.weights": "required, and not given",
        "network.activation": "given 'tahn'; no activation 'tahn'; nearest: tanh",
        "network.names": "given {'w1': 'a', 'W2': 'b'}; w1, W2: allowed: W1, b1, W2, b2 and so on",
        "input.path": "given ''; allowed: a path",
        "input.orientation": "given 'columns_by_faetures'; allowed: 'features_by_columns' or "
        "'columns_by_features'; did you mean columns_by_features?",
        "output.path": "given 3; allowed: a path",
        "output.block_size": "given 'lots'; allowed: auto, or bytes such as 67108864 or '64 MiB'",
        "output.products.1": "given 'jacobain'; allowed: 'jacobian', 'value', 'norm', "
        "'spectral_norm', 'mean', 'mean_abs', 'max_abs' or 'gram'; did you mean jacobian?",
        "cluster.workers": "given -2; allowed: auto, or a whole number from 1",
        "ouput": "unknown key; did you mean output? known here: network, input, output, cluster",
    }
    assert len(lines) == len(expected)
    for path, text in expected.items():
        assert any(line.startswith(f"{path}: {text}") for line in lines)


@pytest.mark.parametrize(
    ("base", "section", "model"),
    [(job(network__names={"W1": "a", "W2": "b"}), *pair) for pair in SECTIONS.items()]
    + [(LOCAL, "cluster", LocalCluster), (ADDRESS, "cluster", AddressCluster)],
)
def test_unknown_keys(base, section, model) -> None:
    known = ", ".join(model.model_fields)
    for key, hint in [(f"{k}x", f"did you mean {k}? ") for k in model.model_fields] + [("@@", "")]:
        (line,) = told(job(base, **{f"{section}.{key}".replace(".", "__"): 1}))
        assert line == f"{section}.{key}: unknown key; {hint}known here: {known}"


@pytest.mark.parametrize("key", ["two\nlines", 7, None, "x" * 500, "\ud800"])
def test_strange_keys_keep_the_report_readable(key) -> None:
    (line,) = told(LOCAL | {key: 1})
    assert "unknown key" in line or line.startswith(r"keys: given '\ud800'")
    assert len(line) < 200


SIZES = {
    "auto": "auto", 1: 1, "64 MiB": 64 * 2**20, "64MB": 64 * 10**6, 1e6: 10**6, "1e6": 10**6,
    "3 kib": 3072, "0.5 GiB": 2**29, " 7 B ": 7, "2.": 2, 2**63 - 1: 2**63 - 1,
}  # fmt: skip
WRONG_SIZES = [
    0, -1, "0", "-5 MiB", "lots", "", "MiB", "1.2.3", "1 EB", "nan", "1e999", "1e19", True, False,
    None, [], {}, 0.5, float("inf"), float("nan"), 2**63, 10**400, "AUTO", 16**5000,
]  # fmt: skip
COUNTS = {1: 1, "13": 13, 10**6: 10**6, 2.0: 2}
WRONG_COUNTS = [
    0, -3, "0", "-3", 1.5, "two", "", True, False, None, [3], float("nan"), 10**6 + 1, 10**400,
    16**5000,
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "right", "wrong", "allowed"),
    [
        *((field, SIZES, WRONG_SIZES, "auto, or ")
          for field in ("output.block_size", "output.chunk_size", "cluster.memory_per_worker")),
        ("cluster.workers", COUNTS | {"auto": "auto"}, WRONG_COUNTS, "auto, or a whole number"),
        ("cluster.threads_per_worker", COUNTS, ["auto", *WRONG_COUNTS], "a whole number from 1 "),
    ],
)  # fmt: skip
def test_sizes_and_counts(field, right, wrong, allowed) -> None:
    section, key = field.split(".")
    for text, number in right.items():
        found = getattr(getattr(load_job(job(**{f"{section}__{key}": text})), section), key)
        assert found == number
        assert type(found) is type(number)
    for text in wrong:
        (line,) = told(job(**{f"{section}__{key}": text}))
        assert re.match(rf"{section}\.{key}: given .+; allowed: {allowed}", line), text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"address": "h:1"}, "address: given 'h:1'; allowed: a scheduler's address such as"),
        ({"address": 3}, "address: given 3; allowed: a scheduler's address such as"),
        ({"workers": "auto"}, "workers: given 'auto'; allowed: a whole number from 1"),
        ({"timeout": 0}, "timeout: given 0; allowed: a number of seconds above 0"),
        ({"timeout": True}, "timeout: given True; allowed: a number of seconds above 0"),
        ({"timeout": float("inf")}, "timeout: given inf; allowed: a number of seconds above 0"),
        ({"stall_timeout": 0}, "stall_timeout: given 0; allowed: auto, or a number of seconds ab"),
        (
            {"kind": "loacl"},
            "kind: given 'loacl'; allowed: 'local', 'address', 'slurm', 'pbs', 'sg",
        ),
        ({"kind": None}, "kind: given None; allowed: 'local', 'address', "),
    ],
)
def test_clusters(changes, line) -> None:
    (found,) = told(ADDRESS | {"cluster": ADDRESS["cluster"] | changes})
    assert found.startswith(f"cluster.{line}")
    assert changes != {"kind": "loacl"} or found.endswith("did you mean local?")


@pytest.mark.parametrize("kind", DEPLOYED)
def test_clusters_that_are_deployed(kind: str) -> None:
    document = LOCAL | {"cluster": DEPLOYED[kind]}
    found = load_job(document)
    assert accepts(json_schema(), document, json_schema())
    assert load_job(found.model_dump(mode="json")) == found
    assert {
        key for key, value in DEPLOYED[kind].items() if getattr(found.cluster, key) is None
    } == set()
    here = found.located().cluster.model_dump()
    for path in ("log_directory", "known_hosts"):
        assert here.get(path) is None or Path(here[path]).is_absolute()
    # Nothing but what a kind cannot be without
    needed = {
        "ssh": {"hosts"}, "kubernetes": {"image", "memory"}, "gateway": {"address"},
    }.get(kind, {"memory"})  # fmt: skip
    for key in needed:
        rest = {k: v for k, v in DEPLOYED[kind].items() if k != key}
        assert told(LOCAL | {"cluster": rest}) == [f"cluster.{key}: required, and not given"]
    assert load_job(LOCAL | {"cluster": {k: DEPLOYED[kind][k] for k in (*needed, "kind")}})


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("slurm", {"walltime": "soon"}, "walltime: given 'soon'; allowed: [days-]HH:MM:SS or sec"),
        ("slurm", {"walltime": "12:00"}, "walltime: given '12:00'; allowed: [days-]HH:MM:SS"),
        ("slurm", {"walltime": 7}, "walltime: given 7; allowed: [days-]HH:MM:SS or seconds, a min"),
        ("pbs", {"memory": "auto"}, "memory: given 'auto'; allowed: bytes such as"),
        ("sge", {"memory": "much"}, "memory: given 'much'; allowed: bytes such as"),
        ("lsf", {"cores": 0}, "cores: given 0; allowed: a whole number from 1"),
        ("lsf", {"queue": "a\nb"}, "queue: given "),
        ("slurm", {"partition": "a"}, "partition: unknown key; "),
        ("slurm", {"adaptive": {"maximum": 2}}, "workers and adaptive: "),
        ("kubernetes", {"adaptive": {"minimum": 3, "maximum": 2}}, "adaptive: "),
        ("kubernetes", {"adaptive": {"minimum": 3}}, "adaptive.maximum: required, and not given"),
        ("kubernetes", {"env": {"a b": 1}}, "env: given "),
        ("kubernetes", {"adaptive": {"least": 3, "maximum": 3}}, "adaptive.least: unknown key; "),
        ("ssh", {"hosts": []}, "hosts: given []; "),
        (
            "ssh",
            {"hosts": ["a", "me@b"]},
            "hosts.1: given 'me@b'; allowed: a host's name or address",
        ),
        ("ssh", {"port": 70000}, "port: given 70000; allowed: a port, from 1 to 65535"),
        ("gateway", {"address": "h:1"}, "address: given 'h:1'; allowed: an address such as https:"),
        ("gateway", {"auth": "ldap"}, "auth: given 'ldap'; allowed: 'basic', 'kerberos' or 'jup"),
    ],
    ids=str,
)
def test_clusters_that_cannot_be_deployed(kind: str, changes, line: str) -> None:
    (found,) = told(LOCAL | {"cluster": DEPLOYED[kind] | changes})
    prefix = "cluster: " if "workers and adaptive" in line else "cluster."
    assert line in found
    assert found.startswith(prefix)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("slurm", "job_script_prologue", ["export AWS_SECRET_ACCESS_KEY=hunter2"]),
        ("pbs", "job_extra_directives", ["-v API_TOKEN=hunter2"]),
        ("kubernetes", "env", {"DB_PASSWORD": "hunter2"}),
        ("kubernetes", "env", {"PROXY": "http://me:hunter2@h"}),
        ("gateway", "options", {"token": "hunter2"}),
        ("gateway", "address", "https://me:hunter2@h"),
        ("ssh", "password", "hunter2"),
    ],
    ids=str,
)
def test_no_secret_is_a_setting_of_a_cluster(kind: str, place: str, value) -> None:
    (line,) = told(LOCAL | {"cluster": DEPLOYED[kind] | {place: value}})
    assert line.startswith(f"cluster.{place}")
    assert "hunter2" not in line


@pytest.mark.parametrize("given", [None, "local", 3, ["local"]])
@pytest.mark.parametrize("section", ["network", "input", "output", "cluster"])
def test_what_is_no_section(section, given) -> None:
    (line,) = told(LOCAL | {section: given})
    assert line.startswith(f"{section}: given {given!r}; expected a section with ")


def test_products() -> None:
    def chosen(given: Any) -> tuple[str, ...]:
        return load_job(job(output__products=given)).output.products

    assert chosen("norm") == ("norm",)
    assert chosen(["mean", "norm", "mean", "value"]) == ("value", "norm", "mean")
    everything = ("jacobian", "value", "norm", "mean")
    assert all(chosen(p) == everything for p in itertools.permutations(everything))
    for wrong in ([], None, 3, {"norm": 1}):
        (line,) = told(job(output__products=wrong))
        assert line.startswith(f"output.products: given {wrong!r}; allowed: a list with at least")
    lines = told(job(output__products=["grams", 3, "norms"]))
    assert [line.split(": ")[0] for line in lines] == [f"output.products.{i}" for i in range(3)]
    assert lines[2].endswith("did you mean norm?")


def test_scalings() -> None:
    given = {
        "input_mean": [1, "2.5"],
        "input_std": 255,
        "output_mean": "scaler/mean",
        "output_std": "std.npy",
    }
    network = load_job(job(network={"weights": "w.onnx"} | given)).network
    assert network.activation is None
    assert network.model_dump(include=set(given)) == {
        "input_mean": (1.0, 2.5), "input_std": 255.0, "output_mean": "scaler/mean",
        "output_std": "std.npy",
    }  # fmt: skip
    # As a store's record holds it
    assert network.model_dump(mode="json", include={"input_mean"}) == {"input_mean": [1.0, 2.5]}
    located = load_job(job(network={"weights": "w.onnx"} | given)).located().network
    assert located.output_mean == "scaler/mean"
    assert located.output_std == str(Path("std.npy").absolute())
    for wrong in ([], [1, "a"], [[1]], True, float("nan"), [float("inf")], {}, " ", "\x1b"):
        (line,) = told(job(network__input_mean=wrong))
        assert line.startswith("network.input_mean: given ")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "leaky_relu", "slope": 0.2}, "leaky_relu has no parameter 'slope'"),
        ({"name": "tanh", "negative_slope": 0.2}, "tanh has no parameter 'negative_slope'"),
        *(({"name": "elu", "alpha": wrong}, "alpha must be a finite number")
          for wrong in ("steep", True, None, [1], float("nan"), float("inf"), 10**400)),
        *((wrong, "allowed: a name, or a mapping")
          for wrong in (3, [3], [[]], {}, {"name": 3}, {"alpha": 1})),
    ],
)  # fmt: skip
def test_wrong_activations(given, problem) -> None:
    (line,) = told(job(network__activation=given))
    assert line.startswith("network.activation: given ")
    assert problem in line


def test_every_activation_is_canonical() -> None:
    for name, formula in ACTIVATIONS.items():
        short = load_job(job(network__activation=name)).network.activation
        assert short == {"name": name, **formula.parameters}
        assert load_job(job(network__activation=short)).network.activation == short


@pytest.mark.parametrize(
    ("overrides", "place", "value"),
    [
        (["output.dtype=float64"], "output.dtype", "float64"),
        (["output.products=[norm, mean]"], "output.products", ("norm", "mean")),
        (["output.block_size=1", "output.block_size = 3 kB "], "output.block_size", 3000),
        (["cluster.workers=5"], "cluster.workers", 5),
        (["input.path=a=b"], "input.path", "a=b"),
        (["network.activation=elu", "network.activation.alpha=0.5"], "network.activation",
         {"name": "elu", "alpha": 0.5}),
        (["network.names={W1: a, W2: b}", "network.names.b2=c"], "network.names",
         {"W1": "a", "W2": "b", "b2": "c"}),
        (["network.activation=[elu, {name: elu, alpha: 2}]"], "network.activation",
         [{"name": "elu", "alpha": 1.0}, {"name": "elu", "alpha": 2.0}]),
        (["network.activation=pkg.mod:sigma"], "network.activation", {"name": "pkg.mod:sigma"}),
    ],
)  # fmt: skip
def test_overrides(overrides, place, value) -> None:
    section, field = place.split(".")
    document = job()
    assert getattr(getattr(load_job(document, overrides), section), field) == value
    assert document == LOCAL  # the caller's mapping is not touched


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        *((wrong, f"--set {wrong}: expected section.key=value")
          for wrong in ("output.dtype", "=3", "a..b=3", ".=1", "output.=1", "")),
        ("output.path.x=3", "--set output.path.x=3: output.path holds 'o.zarr', not a section"),
        ("output.dtype=[", "--set output.dtype=[: the value is not YAML: "),
        ("input.array={a: 1, a: 2}", "--set input.array={a: 1, a: 2}: the value is not YAML: the"),
        ("x=!!python/name:os.system", "--set x=!!python/name:os.system: the value is not YAML: "),
        ("cluster.workers=2001-99-99", "--set cluster.workers=2001-99-99: the value is not YAML"),
        ("cluster.workers=!!int ''", "--set cluster.workers=!!int '': the value is not YAML"),
        ("output.dtype=" + "[" * 500, "--set output.dtype=[[["),
        ("cluster.workers=", "cluster.workers: given None"),
        ("network.activation.b=1", "network.activation: given {'name': 'tanh', 'b': 1}; tanh has"),
        ("ouput.dtype=float64", "ouput: unknown key; did you mean output?"),
    ],
)  # fmt: skip
def test_wrong_overrides(override, problem) -> None:
    (line,) = told(LOCAL, override)
    assert line.startswith(problem)
    # in one report with what is wrong in the file
    assert len(told(job(output__compression="gzip"), override)) == 2


def test_variables(monkeypatch) -> None:
    for name, value in {"DIR": "/d", "SEVEN": "7", "NORM": "norm", "NESTED": "${DIR}"}.items():
        monkeypatch.setenv(name, value)
    document = job(
        input__path="${DIR}/${SEVEN}.npy",
        output__path="$${{DIR}}/$HOME$$/${NESTED}",
        output__products=["${NORM}"],
        output__block_size="${SEVEN} kB",
        cluster__workers="${SEVEN}",
        network__activation={"name": "elu", "alpha": "${SEVEN}"},
    )
    found = load_job(document, ["output.chunk_size=${SEVEN}"])
    assert found.input.path == "/d/7.npy"
    assert found.output.path == "${DIR}/$HOME$/${DIR}"
    assert found.output.products == ("norm",)
    assert (found.output.block_size, found.output.chunk_size) == (7000, 7)
    assert found.cluster.workers == 7
    assert found.network.activation == {"name": "elu", "alpha": 7.0}
    assert load_job(found) == found  # which does not expand it again


def test_unset_variables_are_reported_once(monkeypatch) -> None:
    monkeypatch.delenv("GONE", raising=False)
    gone = {
        "network.activation.name": "${GONE}", "input.path": "${GONE}/x.npy",
        "output.path": "${GONE}", "output.products": ["norm", "${GONE}"], "cluster.kind": "${GONE}",
    }  # fmt: skip
    lines = told(job(network__activation={}, network__weights="",
                     **{key.replace(".", "__"): value for key, value in gone.items()}))  # fmt: skip
    unset = [key if key != "output.products" else "output.products.1" for key in gone]
    assert sorted(lines) == sorted(
        [f"{path}: the environment has no variable 'GONE'" for path in unset]
        + ["network.weights: given ''; allowed: a path"]
    )
    assert told(job(output__dtype="${}")) == ["output.dtype: the environment has no variable ''"]
    assert load_job(job(output__dtype="${GONE}"), ["output.dtype=float64"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a job file has the sections network, input, output, cluster; this one has none"),
        (b"- a\n- b\n", "this one has none"),
        (b"tanh", "this one has none"),
        (b"a: [", "this is not YAML: while parsing a flow node"),
        (b"a: 1\n---\nb: 2\n", "this is not YAML: expected a single document"),
        (b"network: {activation: tanh, activation: relu}", "the key activation is written twice"),
        (b"input:\n  path: a\ninput:\n  path: b\n", "the key input is written twice at line 3"),
        (b"a: \xff\xfe", "this job file cannot be read: 'utf-8' codec"),
        (b"a: \x00", "this is not YAML: unacceptable character"),
        (b"a: !!python/object/apply:os.mkdir [pwned]", "could not determine a constructor"),
        (b"a: !!bool maybe", "this is not YAML"),
        (b"a: !!timestamp now", "this is not YAML"),
        (b"? [a]\n: 1", "this is not YAML: while constructing a mapping"),
        (b"a: &a [*a]", "this is not YAML: found unconstructable recursive node"),
        (b"a: " + b"[" * 500, "this is not YAML: maximum recursion depth"),
    ],
)
def test_files_that_are_no_jobs(tmp_path, monkeypatch, content, problem) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_bytes(content)
    with pytest.raises(JobError, match=re.escape(problem)) as caught:
        load_job("job.yaml")
    assert str(caught.value).startswith("job.yaml: ")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_files_that_are_not_there(tmp_path) -> None:
    with pytest.raises(JobError, match=r"none\.yaml: there is no such job file\.$"):
        load_job(tmp_path / "none.yaml")
    for unreadable in (tmp_path, "a\0b"):
        with pytest.raises(JobError, match="this job file cannot be read: "):
            load_job(unreadable)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(JobError, match="nested too deeply"):
        load_job(job(output__products=[]) | {"output": endless})


def test_located(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    paths = {"network__weights": Path("w.npz"), "input__path": "~/x.npy"}
    found = load_job(job(**paths, output__path="/b/o.zarr", cluster__workers=3)).located()
    assert found.network.weights == str(tmp_path / "w.npz")
    assert found.input.path == "/home/someone/x.npy"
    assert found.output.path == "/b/o.zarr"
    assert found.cluster.workers == 3
    assert found.located() == found
    unknown = load_job(job(input__path="~no-such-user/x.npy")).located()
    assert unknown.input.path == str(tmp_path / "~no-such-user/x.npy")


@pytest.mark.parametrize("source", [LOCAL, ADDRESS, yaml.safe_load(WHOLE), *CONFIGS])
def test_round_trip(source) -> None:
    found = load_job(source)
    dumped = found.model_dump(mode="json")
    assert load_job(dumped) == load_job(MappingProxyType(dumped)) == found
    assert load_job(yaml.safe_load(yaml.safe_dump(dumped))) == found
    assert Job.model_validate_json(found.model_dump_json()) == found


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Check a value against the part of JSON Schema that the job's schema uses."""
    kinds = {"object": dict, "string": str, "array": list, "integer": int, "number": int | float,
             "boolean": bool, "null": type(None)}  # fmt: skip
    checks = {
        "type": lambda s: (
            isinstance(value, kinds[s]) and (s == "boolean") == isinstance(value, bool)
        ),
        "$ref": lambda s: accepts(root["$defs"][s.removeprefix("#/$defs/")], value, root),
        "anyOf": lambda s: any(accepts(part, value, root) for part in s),
        "oneOf": lambda s: sum(accepts(part, value, root) for part in s) == 1,
        "const": lambda s: value == s,
        "enum": lambda s: value in s,
        "pattern": lambda s: re.search(s, value) is not None,
        "minimum": lambda s: value >= s,
        "maximum": lambda s: value <= s,
        "exclusiveMinimum": lambda s: value > s,
        "exclusiveMaximum": lambda s: value < s,
        "minLength": lambda s: len(value) >= s,
        "minItems": lambda s: len(value) >= s,
        "maxItems": lambda s: len(value) <= s,
        "uniqueItems": lambda s: len({repr(item) for item in value}) == len(value) or not s,
        "items": lambda s: all(accepts(s, item, root) for item in value),
        "required": lambda s: set(s) <= set(value),
        "properties": lambda s: all(accepts(s[k], v, root) for k, v in value.items() if k in s),
        "additionalProperties": lambda s: all(
            s and accepts(s, v, root)
            for k, v in value.items()
            if k not in schema.get("properties", ())
        ),
    }
    assert set(schema) <= {*checks, "title", "description", "default", "$defs", "$schema"}
    # the type first, which the others take for granted
    return all(check(schema[word]) for word, check in checks.items() if word in schema)


def test_schema_has_exactly_the_keys_of_the_models() -> None:
    schema = json_schema()
    parts = {"Job": schema} | schema["$defs"]
    known = {model.__name__: model for model in (Job, *MODELS)}
    assert set(parts) == set(known)
    for name, model in known.items():
        fields, properties = model.model_fields, parts[name]["properties"]
        assert set(properties) == set(fields)
        assert parts[name]["additionalProperties"] is False
        assert set(parts[name].get("required", ())) == {
            key for key, field in fields.items() if field.is_required()
        }
        assert name == "Job" or all(field["description"] for field in properties.values())


def test_names_and_scales_that_are_none() -> None:
    for wrong, why in (
        ([], "allowed"), ({}, "allowed"), ("", "allowed"), (3, "allowed"), ([1.5], "quote"),
        ([True], "quote"), (["a", "a"], "differ"), (["a", " "], "name 1"), (["a\x1b"], "control"),
        (["a" * 201], "200"), ("http://x/y", "allowed"),
    ):  # fmt: skip
        (line,) = told(job(network__output_names=wrong))
        assert line.startswith("network.output_names: ")
        assert why in line
    for wrong in ([], {}, 3, "", ["a"], [-1], [float("nan")], [float("inf")], [None]):
        (line,) = told(job(output__scale={"input_std": wrong}))
        assert line.startswith("output.scale.input_std: ")


def test_significant_bits_are_refused_where_they_serve_nothing() -> None:
    (line,) = told(job(output__significant_bits=7))
    assert line.startswith("output: ")
    assert "set compression: lz4 or zstd" in line
    for dtype, most in (("float32", 22), ("float64", 51)):
        kept = {"output__dtype": dtype, "output__compression": "lz4"}
        found = load_job(job(output__significant_bits=most, **kept))
        assert found.output.significant_bits == most
        (line,) = told(job(output__significant_bits=most + 1, **kept))
        assert "significant_bits" in line
    for wrong in (0, -1, 2.5, "many", True):
        (line,) = told(job(output__significant_bits=wrong, output__compression="lz4"))
        assert line.startswith("output.significant_bits: ")


@pytest.mark.parametrize(
    ("valid", "documents"),
    [
        (True, [LOCAL, ADDRESS, yaml.safe_load(WHOLE.replace("1e-3", "0.001"))]),
        (True, [yaml.safe_load(path.read_text()) for path in CONFIGS]),
        # a schema knows 1e6 for a whole number; this test's checker does not
        (True, [job(output__block_size=s) for s in SIZES if not isinstance(s, float)]),
        (False, [job(output__block_size=s) for s in WRONG_SIZES if s not in ("0", "1e19")]),
        (False, [job(cluster__workers=n) for n in WRONG_COUNTS]),
        (True, [job(output__products="norm"), job(output__products=["mean", "norm"])]),
        (True, [job(network__input_names=given) for given in ("n.txt", ["a", "b"])]),
        (False, [job(network__input_names=given) for given in ([], [3], " ", [" "])]),
        (True, [job(output__scale={"input_std": given}) for given in ("s.npy", [0, 1.5], None)]),
        (False, [job(output__scale={"output_std": given}) for given in ([], [-1], " ", 3)]),
        (False, [job(output__products=given) for given in ([], ["norms"], 3)]),
        (True, [job(output__path=given) for given in (
            "o/{date}.zarr", "{{x}}/{date:%Y/%m}{time}", "s3://b/{date:%Y}/{day}", "$$")]),
        (False, [job(output__path=given) for given in (
            "{night}", "a}", "{", "{day:%d}", "{date:}", "s3://b/{nigth}", "s3://b/%", "{{}")]),
        (True, [job(input__array="X"), job(input__array=["X"]), job(input__features=["a", 0])]),
        (False, [job(input__array=given) for given in ([], ["a", "a"], 7, [""])]),
        (False, [job(input__columns=given) for given in ([1], [-1, 1], [0, 1, 2], "0:1")]),
        (False, [job(input__features=given) for given in ([], ["a", "a"], [-1], [0.5], "a")]),
        (False, [job(input__column_dims=given) for given in ([], ["a", "a"], "a", [0])]),
        (False, [job(network__activation="tahn"), job(network__weights=" "), job(x=1), {}]),
        (False, [job(ADDRESS, cluster__address="h:1"), job(ADDRESS, cluster__adress="tcp://h:1")]),
        (False, [job(ADDRESS, cluster__timeout=0), job(cluster__kind="slurm")]),
    ],
)  # fmt: skip
def test_schema_agrees_with_the_loader(valid, documents) -> None:
    schema = json_schema()
    for document in documents:
        assert accepts(schema, document, schema) is valid
        assert load_job(document) if valid else told(document)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
    | st.binary(max_size=3)
    | st.sampled_from(["auto", "tanh", "local", "address", "norm", "${A}", "$$", "1 MiB", "./x"])
)  # fmt: skip
keys = st.text(max_size=4) | st.sampled_from(
    [*LOCAL, "cluster", "kind", "name", "alpha", *(k for m in MODELS for k in m.model_fields)]
)
anything = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(keys | st.integers() | st.none(), below, max_size=4)
    ),
    max_leaves=12,
)
sections = st.dictionaries(keys, st.dictionaries(keys, anything, max_size=4) | anything, max_size=3)


@settings(max_examples=300)
@given(
    base=st.sampled_from(
        [{}, LOCAL, ADDRESS, *(LOCAL | {"cluster": found} for found in DEPLOYED.values())]
    ),
    changes=sections,
)
def test_no_document_does_worse_than_job_error(base, changes) -> None:
    try:
        found = load_job(base | changes)
    except JobError as error:
        assert re.match(r"job: \d+ problems?\n  ", str(error))  # noqa: PT017
    else:
        assert load_job(found) == found


@settings(max_examples=200)
@given(text=st.text(alphabet="abA1 \n:-[]{}#&*!?|>'\"%@`,.=<\\$_\t", max_size=40))
@example(text="a: !!float ''")
@example(text="a: !!binary é")
@example(text="a: !!set {b, c}")
@example(text="a: {<<: 3}")
@example(text="a: '\\ud800'\n\"\\ud800\": 1")
@example(text="a: 0x" + "f" * 5000)
@example(text="output.path=!!set {b, c}")
@example(text="output.path='\\0'")
def test_no_text_does_worse_than_job_error(tmp_path_factory, text) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JobError):
        load_job(path)
    with pytest.raises(JobError):
        load_job({}, [text])


def path_of(path: str, source: Any = None) -> str:
    return load_job(source or job(output__path=path)).output.path


def test_fields_of_the_output_path(monkeypatch, tmp_path) -> None:
    """A store a night: the night is UTC's, or the one that the environment names."""
    monkeypatch.setenv("COLONNADE_DATE", "2026-03-01T23:59:07+02:00")
    monkeypatch.setenv("FIELDS", "{date}")
    assert path_of("o/{date}.zarr") == "o/2026-03-01.zarr"
    assert path_of("o/{date:%Y/%m/%d}/{year}{month}{day}-{time}") == "o/2026/03/01/20260301-215907"
    assert path_of("s3://b/{date:%Y%m}.zarr") == "s3://b/202603.zarr"
    # Braces are written twice, and what a variable holds is no field
    assert path_of("{{date}}/${FIELDS}/$${{HOME}}") == "{date}/{date}/${HOME}"
    (tmp_path / "nightly.v2.yaml").write_text(yaml.safe_dump(job(output__path="{job}/{date}")))
    found = load_job(tmp_path / "nightly.v2.yaml")
    assert found.output.path == "nightly.v2/2026-03-01"
    assert load_job(load_job(job(output__path="{{date}}"))).output.path == "{date}"
    assert load_job(found) == found
    # Elsewhere they are nothing special
    assert load_job(job(input__path="{date}.npy")).input.path == "{date}.npy"
    monkeypatch.setenv("COLONNADE_DATE", "2025-12-31")
    assert path_of("{date}-{time}") == "2025-12-31-000000"
    monkeypatch.delenv("COLONNADE_DATE")
    before, made, after = datetime.now(UTC), path_of("{date}"), datetime.now(UTC)
    assert before.date().isoformat() <= made <= after.date().isoformat()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{night}.zarr", "given '{night}'; known: {date}, {time}, {year}, {month}, {day}, {job}"),
        ("{}", "given '{}'; known: {date}"),
        ("{year:%Y}", "given '{year:%Y}'; known: {date}"),
        ("{date.year}", "given '{date.year}'; known: {date}"),
        ("{date", "given '{'; known: {date}"),
        ("date}", "given '}'; known: {date}"),
        ("{{date}", "given '}'; known: {date}"),
        ("{date:%Q}", "given '{date:%Q}'; a format may use %Y, %m"),
        ("{date:%}", "given '{date:%}'; a format may use %Y, %m"),
        ("{date:}", "given '{date:}'; a format may use %Y, %m"),
        ("{job}", "given '{job}'; {job} is a job file's name, but this job is not a file"),
    ],
)
def test_fields_that_are_not_known(path: str, said: str) -> None:
    (line,) = told(job(output__path=path))
    assert line.startswith(f"output.path: {said}")


@pytest.mark.parametrize("given", ["tonight", "2026-13-01", "0001-01-01T00:00:00+23:59", "20\x1b"])
def test_a_night_that_is_no_date(monkeypatch, given: str) -> None:
    monkeypatch.setenv("COLONNADE_DATE", given)
    (line,) = told(job(output__path="{date}"))
    assert "variable COLONNADE_DATE is not a date; set it to one such as 2026-03-01" in line
    assert load_job(job())


@pytest.mark.parametrize(
    "make", [make_columns, lambda: dask.array.ones((N, P)), lambda: pd.DataFrame(make_columns())]
)
@pytest.mark.parametrize("place", ["input.path", "input", "network.weights", "job"])
def test_an_array_in_the_place_of_a_path(job, make, place: str) -> None:
    document = job()
    section, _, key = place.partition(".")
    if key:
        document[section][key] = make()
    else:
        document[section] = make()
    told = refusal(lambda: load_job(document))
    if place == "job":
        assert "job: unknown key" in told
    else:
        assert f"{place}: given an array of the shape ({N}, {P}); a job holds paths" in told
        assert "np.save('X.npy', X)" in told
        assert "cn.jacobian(network, X)" in told
