"""The commands: parse, call, print; no logic."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from colonnade import __version__
from colonnade.doctor import doctor as diagnose
from colonnade.errors import ColonnadeError, visible
from colonnade.job import json_schema
from colonnade.progress import LOGS, JsonLines, describe, forgiving, listening, measuring
from colonnade.running.calibrate import plan as plan_job
from colonnade.running.materialize import materialize as materialize_store
from colonnade.running.run import run as run_job
from colonnade.signals.interrupts import leave_to_python
from colonnade.store import Store
from colonnade.submit import prepare
from colonnade.verification import verify as verify_store

__all__ = ["main"]

_job = click.argument("job", metavar="JOB")
_store = click.argument("store", metavar="STORE")
_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Override one entry of the job file; may be repeated.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_log = click.option(
    "--log",
    type=click.Choice(LOGS),
    default="auto",
    show_default=True,
    help="What stderr tells: a bar, plain lines, or JSON lines, one event each.",
)
_import = click.option(
    "--import",
    "imports",
    is_flag=True,
    help="Import an activation that is code; of a store that you trust.",
)
_debug = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")


def _trust(told: str) -> Callable[[Any], Any]:
    return click.option("--trust", is_flag=True, help=f"{told} Of a store that you trust.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="colonnade")
def _cli() -> None:
    """Jacobians of neural networks, column by column, at any width.

    Exit status: 0 done; 2 the job, its files or the command line are wrong, nothing was changed;
    3 the store is incomplete and the same command goes on, or it is damaged; 129, 130 or 143
    stopped by a signal, the same command goes on; 1 a defect of colonnade.
    """


@_cli.command()
@_job
@_set
@click.option("--overwrite", is_flag=True, help="Replace the store at output.path.")
@click.option("--repair", is_flag=True, help="Verify the store; compute damaged blocks again.")
@_log
@click.option(
    "--metrics",
    metavar="PATH",
    help="Keep a file of metrics for Prometheus, by way of node-exporter's textfile collector.",
)
@_debug
def run(
    job: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    repair: bool,
    log: str,
    metrics: str | None,
) -> None:
    """Compute what is missing of JOB's store and finish it.

    The same command resumes a run that was interrupted; where X has gained columns since the last
    run, it computes those.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(listening(log))
        if metrics is not None:
            listener = stack.enter_context(measuring(metrics, Path(job).stem, listener))
        finished = run_job(job, overrides, overwrite=overwrite, repair=repair, listener=listener)
    if log != "json":
        click.echo(describe(finished), file=forgiving(sys.stdout))


@_cli.command()
@_job
@_set
@click.option("--calibrate", is_flag=True, help="Time some blocks on the cluster; tell how long.")
@_json
@_debug
def plan(job: str, overrides: tuple[str, ...], calibrate: bool, as_json: bool) -> None:
    """Show what JOB would compute, write and need; touch nothing.

    With --calibrate some blocks are computed on the job's cluster, in a store beside the output's
    that is deleted again.
    """
    planned = plan_job(job, overrides, calibrate=calibrate)
    click.echo(json.dumps(planned.as_dict(), indent=2) if as_json else str(planned))


@_cli.command()
@click.argument("factored", metavar="FACTORED")
@click.argument("dense", metavar="DENSE")
@_set
@click.option("--overwrite", is_flag=True, help="Replace the store at DENSE.")
@click.option("--repair", is_flag=True, help="Verify DENSE; compute damaged blocks again.")
@_trust("Take the cluster, and how object stores are reached, from FACTORED's job.")
@_import
@_log
@_debug
def materialize(
    factored: str,
    dense: str,
    overrides: tuple[str, ...],
    overwrite: bool,
    repair: bool,
    trust: bool,
    imports: bool,
    log: str,
) -> None:
    """Make a store of the tensor at DENSE of the slopes in the store FACTORED.

    On this machine, or on the cluster that --set names, or with --trust on that of FACTORED's job;
    X is not read. The same command resumes.
    """
    with listening(log) as listener:
        finished = materialize_store(
            factored,
            dense,
            overrides,
            overwrite=overwrite,
            repair=repair,
            trust=trust,
            imports=imports,
            listener=listener,
        )
    if log != "json":
        click.echo(describe(finished), file=forgiving(sys.stdout))


@_cli.command()
@_job
@_set
@click.option(
    "--print", "only_print", is_flag=True, help="Show what would be handed over, no more."
)
@click.option("--wait", is_flag=True, help="Wait for the run's end; exit with its status.")
@_debug
def submit(job: str, overrides: tuple[str, ...], only_print: bool, wait: bool) -> None:
    """Hand `colonnade run JOB` to the cluster's own queue; print the queue's id of it.

    For clusters of kind slurm, pbs, sge, lsf and kubernetes.
    """
    submission = prepare(job, overrides)
    if only_print:
        click.echo(submission.handover.text, nl=False)
        return
    job_id = submission.handover.submit()
    click.echo(job_id)
    click.echo(f"log: {submission.handover.log(job_id)}", file=forgiving(sys.stderr))
    if wait:
        click.echo(submission.wait(job_id), file=forgiving(sys.stderr))


@_cli.command()
@_store
@_json
@_debug
def status(store: str, as_json: bool) -> None:
    """Show what STORE holds and how far it is.

    Exit status: 0 it is complete, 3 it is not, 2 there is none.
    """
    found = Store.open(store).status()
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))
    if found.state != "complete":
        raise click.exceptions.Exit(3)


@_cli.command()
@_store
@click.option(
    "--columns",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="How many columns to compare number by number; with 0, checksums alone are checked.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the choice of columns, and of the random vectors.",
)
@_trust("Read X as the store's job says, with your credentials, wherever that is.")
@_import
@_json
@_log
@_debug
def verify(
    store: str, columns: int, seed: int, trust: bool, imports: bool, as_json: bool, log: str
) -> None:
    """Check all of STORE's checksums, and its columns against an independent derivative."""
    with listening(log) as listener:
        found = verify_store(
            store, columns=columns, seed=seed, trust=trust, imports=imports, listener=listener
        )
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))
    found.require()


@_cli.command()
@_store
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    metavar="PAGE",
    help="The page to write.",
)
@_debug
def report(store: str, output: str) -> None:
    """Show STORE as one self-contained page with pictures."""
    # jinja2 and xarray are for this command alone
    click.echo(import_module("colonnade.reporting").report(store, output))


@_cli.command()
@_json
@_debug
def doctor(as_json: bool) -> None:
    """Tell what this environment would run with: versions, cores, extras, and advice."""
    found = diagnose()
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))


@_cli.command()
@_debug
def schema() -> None:
    """Print the job file's JSON Schema, for editors to complete and check it."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _exit_status(command: Callable[[], int | None], *, debug: bool, as_json: bool) -> int:
    """Run a command; say what went wrong in one paragraph, and return the exit status."""
    found: Exception
    try:
        # Where click is not to exit itself, it returns the status
        status = command() or 0
    except ColonnadeError as error:
        if debug:
            raise
        found, status, paragraph = error, error.exit_status, str(error)
    except click.ClickException as error:
        if not as_json:
            error.show(forgiving(sys.stderr))
            return 2
        found, status, paragraph = error, 2, error.format_message()
    except (KeyboardInterrupt, click.Abort):
        return 130
    except SystemExit:
        # Not in standalone mode, click exits only where the reader of our output has gone
        return 141
    except Exception as error:
        if debug:
            raise
        told_error = visible(" ".join(str(error).split()))
        found, status = error, 1
        paragraph = (
            f"a defect of colonnade, not of the job: {type(error).__name__}: {told_error}. "
            "Please report it with what --debug shows."
        )
    else:
        return status
    if as_json:
        JsonLines(sys.stderr).error(type(found).__name__, paragraph, status)
    else:
        click.echo(f"colonnade: {paragraph}", file=forgiving(sys.stderr))
    return status


def main() -> None:
    """Run the command line."""
    leave_to_python()
    given = sys.argv[1:]
    # Errors of the command line itself come before it is parsed
    as_json = "--log=json" in given or ("--log", "json") in pairwise(given)
    command = partial(_cli, standalone_mode=False)
    sys.exit(_exit_status(command, debug="--debug" in given, as_json=as_json))
