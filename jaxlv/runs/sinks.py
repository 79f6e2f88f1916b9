"""Services that get the same metrics as metrics.jsonl: TensorBoard, Weights & Biases, MLflow. None can hold up or end a
run.

Each is opened and fed by a thread of its own. One that fails, or cannot be reached, is named once and left out. Servers,
projects and keys are the services' own settings: WANDB_PROJECT, MLFLOW_TRACKING_URI, and so on.
"""

from __future__ import annotations

import importlib
import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxlv.errors import JaxlvError, printable

WAIT = 10.0  # seconds that the end of a run gives a sink to send what is left
MOST = 10_000  # records that wait for a sink; more are dropped
PROJECT = "jaxlv"
Send = Callable[[int, Mapping[str, float]], None]
Sections = Mapping[str, Mapping[str, object]]  # the settings of a run by section


def _tensorboard(module: Any, folder: Path, config: Sections) -> tuple[Send, Callable[[], None]]:
    board = module.SummaryWriter(str(folder / "tensorboard"))

    def send(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)

    return send, board.close


def _wandb(module: Any, folder: Path, config: Sections) -> tuple[Send, Callable[[], None]]:
    os.environ.setdefault("WANDB_INIT_TIMEOUT", f"{2 * WAIT:g}")  # of its own it would hold up the end of the process
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = module.init(project=project, name=folder.name, dir=str(folder), config=dict(config))
    return lambda step, values: run.log(dict(values), step=step), run.finish


def _mlflow(module: Any, folder: Path, config: Sections) -> tuple[Send, Callable[[], None]]:
    module.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    module.start_run(run_name=folder.name)
    module.log_params({f"{section}.{key}": value for section, part in config.items() for key, value in part.items()})
    return lambda step, values: module.log_metrics(dict(values), step=step), module.end_run


SINKS: Mapping[str, tuple[str, Callable[[Any, Path, Sections], tuple[Send, Callable[[], None]]]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}
"""By name: the module that is imported, and what opens it: (send, close)."""


def package_of(name: str) -> Any:
    """Imports the package of a sink. Raises JaxlvError if it is not installed."""
    package = SINKS[name][0]
    try:
        return importlib.import_module(package)
    except ImportError:
        hint = f'pip install "jaxlv[{name}]"'
        raise JaxlvError(f"{package} is not installed", where="train.sinks", hint=hint) from None


class Sink:
    """A service that is sent records by a thread of its own. `note(text)` is called once if it fails."""

    def __init__(self, name: str, folder: Path, config: Sections, note: Callable[[str], None]):
        module, self._open = package_of(name), SINKS[name][1]
        self.name, self.note, self._failed = name, note, False
        self._records: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(MOST)
        self._thread = threading.Thread(target=self._run, args=(module, folder, config), name=name, daemon=True)
        self._thread.start()

    def _run(self, module: Any, folder: Path, config: Sections) -> None:
        try:
            send, close = self._open(module, folder, config)
            while (record := self._records.get()) is not None:
                send(*record)
            close()
        except BaseException as fault:  # whatever a service raises, and SystemExit, which some do
            self._fail(f"{type(fault).__name__}: {printable(fault, 200)}")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self.note(f"{self.name} is left out from here on ({reason}); metrics.jsonl has everything")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Hands over the values of a step, without waiting."""
        if not self._failed:
            try:
                self._records.put_nowait((step, values))
            except queue.Full:
                self._fail(f"{MOST} records wait for it")

    def close(self, wait: float = WAIT) -> None:
        """Gives the service some time to send what is left."""
        if self._failed:
            return
        try:
            self._records.put_nowait(None)
            self._thread.join(wait)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._fail(f"not done after {wait:g} s")
