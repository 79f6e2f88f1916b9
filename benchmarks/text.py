"""Measures what the written form changes: decimals, head-room, scale rule and temperature, on simulated series.

    python -m benchmarks.text [MODEL] [--series 48] [--samples 8] [--only "2 decimals, head-room 0.5; ..."]

MODEL is "embedded" (the default) or a Hugging Face folder, untuned. Every row forecasts the same series of the course's
preset, 40 steps from 40, so that even three decimals fit in the windows that the embedded base was trained on. Rows marked
with * look at the values to be forecast, as the paper's rule does. "Four head-rooms" draws a quarter of the samples
with each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import tables
from jaxlv.config import SamplingConfig
from jaxlv.data import dynamics
from jaxlv.data.series import SeriesSet
from jaxlv.forecasting.evaluate import score
from jaxlv.forecasting.likelihood import nats_per_value
from jaxlv.forecasting.request import Request
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.weights import load_pretrained, resolve
from jaxlv.text.codec import TOP, Codec
from jaxlv.text.tokens import load_alphabet

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, HORIZON, SEED = 40, 40, 77
HEADROOMS = (0.35, 0.45, 0.55, 0.65)


@dataclass(frozen=True)
class Form:
    """A way to write series and to draw samples; several head-rooms get an equal share of the samples each."""

    scale: str = "context"
    decimals: int = 2
    headrooms: tuple[float, ...] = (0.5,)
    temperature: float = 1.0

    def codec(self, values_NTV: np.ndarray) -> Codec:
        """Returns the codec; the rule `mao` takes its factor from all values, as the paper does."""
        alpha = float(np.percentile(values_NTV, 99.7)) / TOP if self.scale == "mao" else None
        return Codec(self.scale, self.headrooms[0], self.decimals, alpha, self.headrooms)


FORMS: dict[str, Form] = {
    "2 decimals, head-room 0.5": Form(),
    "1 decimal": Form(decimals=1),
    "3 decimals": Form(decimals=3),
    "head-room 0.2": Form(headrooms=(0.2,)),
    "head-room 0.35": Form(headrooms=(0.35,)),
    "head-room 0.65": Form(headrooms=(0.65,)),
    "head-room 0.75": Form(headrooms=(0.75,)),
    "four head-rooms": Form(headrooms=HEADROOMS),
    "four head-rooms, 3 decimals": Form(headrooms=HEADROOMS, decimals=3),
    "rule of xu *": Form("xu"),
    "rule of rai *": Form("rai"),
    "rule of mao *": Form("mao"),
    "rule of liu": Form("liu"),
    "temperature 0.5": Form(temperature=0.5),
    "temperature 0.7": Form(temperature=0.7),
    "temperature 0.85": Form(temperature=0.85),
}
"""The forms by name; everything that a name does not mention is as in the first."""


def measure(form: Form, forecaster: Sampler, series: SeriesSet, samples: int, batch: int) -> dict[str, Any]:
    """Measures a row of the result."""
    own = replace(forecaster, codec=form.codec(series.values_NTV)).with_sampling(temperature=form.temperature)
    forecast = own(series, Request(CONTEXT, HORIZON, samples, SEED, batch))
    values_NTV = series.values_NTV
    context_NCV, truth_NHV = values_NTV[:, :CONTEXT], values_NTV[:, CONTEXT : CONTEXT + HORIZON]
    row = score("model", forecast.median(), truth_NHV, context_NCV, series, forecast.filled())
    if len(form.headrooms) == 1:
        row = replace(row, nats_per_value=float(nats_per_value(own, series, CONTEXT, HORIZON, batch).mean()))
    return {key: value for key, value in row.tree().items() if not key.endswith(("_by_series", "_by_step"))}


def line(name: str, row: dict[str, Any]) -> list[str]:
    """Returns name, MAE and its interval, median, first five steps, CRPS, 80 % coverage, nats per value."""
    low, high = row["mae_ci95"]
    nats = "" if row["nats_per_value"] is None else f"{row['nats_per_value']:.2f}"
    figures = [f"{row[key]:.5f}" for key in ("mae_median", "mae_first_5", "crps")]
    return [name, f"{row['mae']:.5f}", f"{low:.5f} - {high:.5f}", *figures, f"{100 * row['coverage']['80']:.0f}", nats]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.text", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--series", type=int, default=48)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--batch-series", type=int, default=16)
    parser.add_argument("--only", help=f"some of: {'; '.join(FORMS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder of text-DEVICE.json and .md")
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(";")] if options.only else list(FORMS)
    unknown = sorted(set(names) - set(FORMS))
    if unknown:
        parser.error(f"unknown form {unknown[0]!r}")
    folder = resolve(options.model)
    model, params = load_pretrained(folder)
    alphabet = load_alphabet(folder, model.config.vocab_size)
    forecaster = Sampler(model, {"params": params}, alphabet, Codec(), SamplingConfig(temperature=1.0))
    series = dynamics.draw("course", options.series, SEED)
    rows = {}
    for name in names:
        rows[name] = measure(FORMS[name], forecaster, series, options.samples, options.batch_series)
        print(" | ".join(line(name, rows[name])), flush=True)
    head = ["", "MAE", "95 % interval", "median", "first 5 steps", "CRPS", "inside 80 %", "nats per value"]
    lines = [" | ".join(cells) for cells in [head, ["---", *["---:"] * 7], *(line(n, rows[n]) for n in names)]]
    device = jax.default_backend()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"text-{device}.md").write_text("\n".join(f"| {text} |" for text in lines) + "\n", encoding="utf-8")
    record = {"model": options.model, "series": options.series, "samples": options.samples, "rows": tables.rounded(rows)}
    record |= {"context": CONTEXT, "horizon": HORIZON, "seed": SEED, "units": "raw units"}
    record |= {"machine": tables.machine(), "versions": tables.versions(ROOT)}
    (options.out / f"text-{device}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
