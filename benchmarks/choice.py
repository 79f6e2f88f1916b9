"""Measures what it gains that "embedded" reads each set of series by the base that knows it better, on simulated series.

    python -m benchmarks.choice [--series 24] [--samples 20]

Each row has series of two species that neither base was trained on: of the course's equations, as they are and observed
with log-normal noise or as counts, and of kinds that are kept for validation. 8 steps are forecast from the steps before.
Table: CRPS / mean of the context, over series, steps and species, of each base, of the chosen one, and if it were chosen for
each series by itself; which that is; and for how many series by themselves it is the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import tables
from benchmarks.common import RESULTS, ROOT
from jaxlv import api
from jaxlv.config import ModelSettings
from jaxlv.data import dynamics, kinds
from jaxlv.data.series import SeriesSet, from_arrays
from jaxlv.forecasting import metrics
from jaxlv.forecasting.familiar import nats_per_written_value
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.bases import BASE, CYCLES, FIELD
from jaxlv.studies.choice import Choice

SEED, HORIZON, STEPS = 4711, 8, 60
NOISES = (0.01, 0.05, 0.1, 0.2, 0.4)
HEAD = ("series", "context", CYCLES, FIELD, "chosen", "each by itself", "which", "single series alike")


class Row(NamedTuple):
    """Series, and how many steps are shown."""

    name: str
    series: SeriesSet
    context: int


def rows(count: int) -> Iterator[Row]:
    """Yields what is measured."""
    random = np.random.default_rng(SEED)
    clean = dynamics.draw("course", count, SEED)
    for context in (10, 30, 50):
        yield Row("course's equations", clean, context)
    for noise in NOISES:
        z_NTV = random.standard_normal(clean.values_NTV.shape)
        yield Row(
            f"with {100 * noise:g} % of noise", replace(clean, values_NTV=clean.values_NTV * np.exp(noise * z_NTV)), 30
        )
    mean_NTV = clean.values_NTV / clean.values_NTV.mean(axis=(1, 2), keepdims=True)
    for mean in (10, 100):
        yield Row(
            f"as counts, {mean} on average", replace(clean, values_NTV=random.poisson(mean * mean_NTV).astype(float)), 30
        )
    for name, kind in kinds.UNSEEN.items():
        if kind.variables == 2:
            yield Row(name, from_arrays(kinds.draw(name, count, STEPS, SEED, 1e-4).astype(float)), 30)


def scaled_crps(sampler: Sampler, row: Row, samples: int) -> np.ndarray:
    """Returns the CRPS of each series (N,), each variable by the mean of its context."""
    made = sampler(row.series, Request(row.context, HORIZON, samples, SEED))
    truth_NHV = row.series.values_NTV[:, row.context : row.context + HORIZON]
    crps_NV = metrics.crps(made.filled(), truth_NHV)
    return (crps_NV / row.series.values_NTV[:, : row.context].mean(axis=1)).mean(axis=1)


def measured(row: Row, bases: dict[str, Sampler], choice: Choice, samples: int) -> dict[str, Any]:
    """Returns a row of the table."""
    crps = {name: scaled_crps(one, row, samples) for name, one in bases.items()}
    name = choice.reader(bases[CYCLES], row.series, row.context).name or CYCLES
    nats = {one: nats_per_written_value(sampler, row.series, row.context) for one, sampler in bases.items()}
    own_N = nats[CYCLES] < nats[FIELD]
    means = {one: float(crps_N.mean()) for one, crps_N in crps.items()}
    each = float(np.where(own_N, crps[CYCLES], crps[FIELD]).mean())
    alike = int((own_N == (name == CYCLES)).sum())
    return {**means, "chosen": means[name], "each by itself": each, "which": name, "alike": alike, "context": row.context}


def line(name: str, row: dict[str, Any], count: int) -> list[str]:
    """Returns the cells of a row."""
    figures = [f"{row[key]:.3g}" for key in (CYCLES, FIELD, "chosen", "each by itself")]
    return [name, str(row["context"]), *figures, row["which"], f"{row['alike']} of {count}"]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.choice", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--series", type=int, default=24)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of choice-DEVICE.json and .md")
    options = parser.parse_args()
    bases, choice = {name: api.open_model(name) for name in (CYCLES, FIELD)}, Choice(ModelSettings(path=BASE))
    found, lines = [], [" | ".join(HEAD), " | ".join(["---", *["---:"] * 5, "---", "---:"])]
    for row in rows(options.series):
        found.append({"name": row.name, **measured(row, bases, choice, options.samples)})
        lines.append(" | ".join(line(row.name, found[-1], len(row.series))))
        print(lines[-1], flush=True)
    device = jax.default_backend()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"choice-{device}.md").write_text("\n".join(f"| {text} |" for text in lines) + "\n", encoding="utf-8")
    record = {"series": options.series, "samples": options.samples, "horizon": HORIZON, "seed": SEED}
    record |= {
        "rows": [tables.rounded(one) for one in found],
        "machine": tables.machine(),
        "versions": tables.versions(ROOT),
    }
    (options.out / f"choice-{device}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
