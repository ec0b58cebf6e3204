"""Report on a store in one self-contained page: the job, its speed, and the Jacobians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from colonnade.errors import IncompleteError, StoreError, UsageError, one_line, visible
from colonnade.formatting import counted, format_bytes, format_seconds
from colonnade.reporting import draw
from colonnade.reporting.summary import Part, Summary, summarise
from colonnade.storage.locations import Options
from colonnade.storage.regularfiles import replace

__all__ = ["report"]

# Bars of the spectrum, and components of its leading direction
_EIGENVALUES = 12
_COMPONENTS = 12


def report(
    store: str | Path,
    output: str | Path = "report.html",
    *,
    storage_options: Options = None,
) -> Path:
    """Write a report on a store: one HTML file that needs no network.

    If the store does not hold the mean, the norms or the gram matrix, the report estimates them
    from up to 1,024 columns and says so.

    Parameters
    ----------
    store
        Path or URL of the store, which need not be finished.
    output
        Path of the page, which is replaced if it exists.
    storage_options
        Options of the object store, as in a job.

    Returns
    -------
    The page's path.

    Raises
    ------
    StoreError
        There is no store of colonnade at the path, or it cannot be read.
    IncompleteError
        The stored numbers are damaged.
    UsageError
        The page cannot be written.
    """
    try:
        page = _page(summarise(store, storage_options))
    except OSError as error:
        raise StoreError(
            f"{store} cannot be read: {one_line(error).rstrip('.')}. Check its permissions and, "
            "for a URL, the connection."
        ) from error
    except ValueError as error:
        raise IncompleteError(
            f"{store} is damaged: {one_line(error).rstrip('.')}. colonnade verify shows where, and "
            "colonnade run --repair JOB computes the damaged blocks again."
        ) from error
    path = Path(output)
    try:
        replace(path, page.encode())
    except OSError as error:
        raise UsageError(
            f"{output}: the report cannot be written: {error.strerror}. Choose another path."
        ) from error
    return path


def _page(found: Summary) -> str:
    environment = Environment(
        loader=PackageLoader("colonnade.reporting", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    environment.filters |= {"bytes": format_bytes, "seconds": format_seconds, "number": draw.number}
    return environment.get_template("page.html.jinja").render(
        name=Path(found.status.path).name,
        status=found.status,
        record=found.status.record,
        facts=_facts(found),
        runs=[run for run in found.status.record.runs if run.blocks][::-1],
        pictures=_pictures(found),
        quantiles=_quantiles(found.norms),
        norms=found.norms,
        searched=found.searched,
        spectrum=_spectrum(found),
        warnings=found.warnings,
        area=draw.area,
        sampled=_sampled,
        moment=_moment,
    )


def _plain(value: Any) -> Any:
    """Escape characters of a store's texts that hide or reorder text; markup is our own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _facts(found: Summary) -> list[tuple[str, str]]:
    record = found.status.record
    network, output = record.network, record.job.output
    return [
        ("Columns", f"{record.grid.columns:,}"),
        ("Inputs × hidden × outputs", " × ".join(map(str, network.sizes))),
        ("σ", record.job.network.sigma_text),
        ("Layout", f"{output.layout}, {output.dtype}"),
        ("Numbers", format_bytes(sum(plan.bytes for plan in record.plans))),
        ("Blocks", f"{record.grid.blocks - len(found.status.missing):,} of {record.grid.blocks:,}"),
    ]


def _pictures(found: Summary) -> dict[str, Any]:
    names = (found.outputs, found.inputs)
    pictures: dict[str, Any] = {"largest": []}
    for key, title in (("mean", "Mean Jacobian"), ("mean_abs", "Mean |J|")):
        part: Part | None = getattr(found, key)
        if part is not None:
            scale = draw.scale_of(part.values)
            drawn = draw.heat_map(part.values, *names, scale, label=title)
            pictures[key] = (title, drawn, scale, part)
    if found.norms is not None and np.isfinite(found.norms.values).any():
        pictures["norms"] = draw.histogram(
            found.norms.values, label="Distribution of the Frobenius norms", unit="‖J‖ of a column"
        )
    scale = draw.scale_of(*(block for _, _, block in found.largest))
    pictures["largest"] = [
        (label, norm, draw.heat_map(block, *names, scale, label=label, small=True))
        for label, norm, block in found.largest
    ]
    return pictures


def _quantiles(norms: Part | None) -> list[tuple[str, float]]:
    finite = np.array([]) if norms is None else norms.values[np.isfinite(norms.values)]
    if not finite.size:
        return []
    parts = {"least": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "largest": 1.0}
    return list(zip(parts, np.quantile(finite, list(parts.values())).tolist(), strict=True))


def _spectrum(found: Summary) -> dict[str, Any] | None:
    if found.spectrum is None or found.direction is None:
        return None
    values = found.spectrum.values
    total = values.sum()
    if not total > 0:
        return None
    shares = np.cumsum(values) / total
    enough = int(np.searchsorted(shares, 0.95)) + 1
    order = np.argsort(-np.abs(found.direction))[:_COMPONENTS]
    kept = values[:_EIGENVALUES]
    return {
        "part": found.spectrum,
        "enough": enough,
        "of": counted(len(values), "direction"),
        "first": shares[0],
        "values": draw.bars(
            kept.tolist(), [f"λ{i + 1}" for i in range(len(kept))], label="Eigenvalues of mean JᵀJ"
        ),
        "direction": draw.bars(
            found.direction[order].tolist(),
            [found.inputs[i] for i in order],
            label="The leading input direction",
        ),
    }


def _sampled(part: Part) -> str:
    """Say from how many columns a part was estimated, if it was."""
    return "" if part.sampled is None else f"Estimated from {part.sampled:,} columns."


def _moment(iso: str) -> str:
    """Format a time in UTC for people."""
    return f"{iso[:16].replace('T', ' ')} UTC"
