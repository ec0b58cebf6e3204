"""The commands: parse arguments, call the library, print its result; no logic."""

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
    help="Progress on stderr: a bar, plain lines, or JSON lines with one event each.",
)
_import = click.option(
    "--import",
    "imports",
    is_flag=True,
    help="Import an activation that is Python code. Only for a store that you trust.",
)
_debug = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")


def _trust(purpose: str) -> Callable[[Any], Any]:
    return click.option("--trust", is_flag=True, help=f"{purpose} Only for a store that you trust.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="colonnade")
def _cli() -> None:
    """Compute Jacobians of neural networks, column by column, at any width.

    Exit status: 0 success; 2 an error in the job, its files or the command line, nothing was
    changed; 3 the store is incomplete (the same command resumes) or damaged; 129, 130 or 143
    stopped by a signal (the same command resumes); 1 a defect of colonnade.
    """


@_cli.command()
@_job
@_set
@click.option("--overwrite", is_flag=True, help="Replace the store at output.path.")
@click.option("--repair", is_flag=True, help="Verify the store; recompute damaged blocks.")
@_log
@click.option(
    "--metrics",
    metavar="PATH",
    help="Write Prometheus metrics to this file, for node-exporter's textfile collector.",
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
    """Compute the missing blocks of JOB's store and finish it.

    The same command resumes an interrupted run. If X has gained columns since the last run, the
    command computes them.
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
@click.option(
    "--calibrate", is_flag=True, help="Estimate the duration by timing some blocks on the cluster."
)
@_json
@_debug
def plan(job: str, overrides: tuple[str, ...], calibrate: bool, as_json: bool) -> None:
    """Show what JOB would compute, write and need.

    Changes nothing. With --calibrate, some blocks are computed on the job's cluster, in a temporary
    store beside the output.
    """
    planned = plan_job(job, overrides, calibrate=calibrate)
    click.echo(json.dumps(planned.as_dict(), indent=2) if as_json else str(planned))


@_cli.command()
@click.argument("factored", metavar="FACTORED")
@click.argument("dense", metavar="DENSE")
@_set
@click.option("--overwrite", is_flag=True, help="Replace the store at DENSE.")
@click.option("--repair", is_flag=True, help="Verify DENSE; recompute damaged blocks.")
@_trust("Use the cluster and object-store options of FACTORED's job.")
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
    """Compute the store DENSE from the slopes in the store FACTORED.

    Runs on this machine, on the cluster that --set gives, or with --trust on the cluster of
    FACTORED's job. X is not read. The same command resumes an interrupted run.
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
    "--print", "only_print", is_flag=True, help="Show the submission without submitting it."
)
@click.option("--wait", is_flag=True, help="Wait for the run to end; exit with its status.")
@_debug
def submit(job: str, overrides: tuple[str, ...], only_print: bool, wait: bool) -> None:
    """Submit `colonnade run JOB` to the cluster's own queue.

    Prints the id in the queue. For clusters of kind slurm, pbs, sge, lsf and kubernetes.
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
    """Show what STORE holds and how much of it is complete.

    Exit status: 0 complete, 3 incomplete, 2 no store found.
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
    help="Number of columns to compare number by number; 0 checks only checksums.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed for the choice of columns and the random vectors.",
)
@_trust("Read X from any location that the store's job names, with your credentials.")
@_import
@_json
@_log
@_debug
def verify(
    store: str, columns: int, seed: int, trust: bool, imports: bool, as_json: bool, log: str
) -> None:
    """Check STORE's checksums, and columns against an independent derivative."""
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
    help="HTML file to write.",
)
@_debug
def report(store: str, output: str) -> None:
    """Write a self-contained HTML page about STORE, with pictures."""
    # Imported here, since only this command needs jinja2 and xarray
    click.echo(import_module("colonnade.reporting").report(store, output))


@_cli.command()
@_json
@_debug
def doctor(as_json: bool) -> None:
    """Show versions, cores, memory and optional packages."""
    found = diagnose()
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else str(found))


@_cli.command()
@_debug
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _exit_status(command: Callable[[], int | None], *, debug: bool, as_json: bool) -> int:
    """Run a command, print any error as one paragraph, and return the exit status."""
    found: Exception
    try:
        # With standalone_mode=False, click returns the status instead of exiting
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
        # With standalone_mode=False, click exits only after a broken pipe on stdout
        return 141
    except Exception as error:
        if debug:
            raise
        error_text = visible(" ".join(str(error).split()))
        found, status = error, 1
        paragraph = (
            f"a defect of colonnade, not of the job: {type(error).__name__}: {error_text}. "
            "Please report it with the traceback that --debug shows."
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
    # Errors in the command line itself occur before click has parsed --log
    as_json = "--log=json" in given or ("--log", "json") in pairwise(given)
    command = partial(_cli, standalone_mode=False)
    sys.exit(_exit_status(command, debug="--debug" in given, as_json=as_json))
