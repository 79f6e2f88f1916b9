"""Tune the small base on simulated series, forecast held-out ones, and use the adapter by itself.

python docs/example.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

import jaxlv
from jaxlv.config import RunConfig, build_config
from jaxlv.runs import sources, training

CONTEXT, HORIZON = 50, 30
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")

# A run is a config: what is not named has its default (jaxlv/config.py says what each setting means).
config = build_config(
    RunConfig,
    {
        "data": {"simulate": 60},  # Rosenzweig-MacArthur systems like the course's
        "lora": {"rank": 8, "alpha": 16.0, "head": "frozen"},
        "optimizer": {"learning_rate": 2e-4},
        "train": {"steps": 10, "batch_size": 2, "validate_every": 5, "forecast_series": 0},
    },
)
inputs = sources.load_inputs(config)
training.train(config, folder, inputs, watch=training.Watch(note=print))

# Forecasts: a frame of statistics and samples, or the samples as an array (series, samples, steps, variables).
held = inputs.series.select(inputs.split.test[:3])
known, truth = held.values_NTV[:, :CONTEXT], held.values_NTV[:, CONTEXT : CONTEXT + HORIZON]
frame = jaxlv.forecast(folder, known, HORIZON, samples=4, seed=1)
median = frame[frame["statistic"] == "median"]["value"].to_numpy().reshape(truth.shape)
print(f"mean absolute error: {np.abs(median - truth).mean():.4f} raw units")
print(f"last value instead:  {np.abs(known[:, -1:] - truth).mean():.4f} raw units")

# The adapter alone, as PEFT reads it: laid over the base it is the tuned model.
model, params = jaxlv.load_pretrained("embedded")
lora = jaxlv.load_adapter(folder / "adapter", model)
codec = jaxlv.open_model("embedded", folder / "adapter").codec
again = jaxlv.forecast((model, params, lora), known, HORIZON, samples=4, seed=1, codec=codec)
same = np.allclose(again["value"], frame["value"], equal_nan=True)
print(f"the same forecasts by the adapter alone: {same}")
