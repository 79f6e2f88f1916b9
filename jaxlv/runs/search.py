"""Search beyond grids: Optuna draws settings, some at a time, so that runs of one program train together.

A study lies in a storage (a database's address). Several machines that name the same one share what they find. What a trial
draws depends only on the seed, its number and what its study knew then: an interrupted search draws the same again.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlv.errors import JaxlvError, printable, represented
from jaxlv.storage.door import is_there
from jaxlv.storage.files import new_file

PREFIX = "trial-"
MOST = 1e30  # of an end of a range: more than any setting may be


@dataclass(frozen=True)
class Range:
    """What a setting ("section.key") is drawn from: low to high, on a logarithmic scale if `log`, or some values."""

    setting: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        least = 0 if self.log else -MOST
        if not self.values and not (least <= self.low < self.high <= MOST and (self.low or not self.log)):
            expected = f"low < high, at most {MOST:g}" + (", both above 0" if self.log else "")
            found = f"{represented(self.low)}..{represented(self.high)}"
            raise JaxlvError("not a range", where=f"search {self.setting}", expected=expected, found=found)

    @classmethod
    def of(cls, text: str) -> Range:
        """Returns the range that a text such as "optimizer.learning_rate=1e-5..1e-3:log" means, or "lora.rank=2,4,8", which
        lists values. Raises JaxlvError if it is neither.
        """
        name, _, rest = text.partition("=")
        ends, _, scale = rest.partition(":")
        low, dots, high = ends.partition("..")
        if not dots:
            name, values = values_of(text, "--search")
            return cls(name, values=tuple(tuple(one) if isinstance(one, list) else one for one in values))
        try:
            first, last = (tomllib.loads(f"value = {end}")["value"] for end in (low, high))
            if scale not in ("", "log") or not all(isinstance(end, (int, float)) for end in (first, last)):
                raise ValueError
        except (ValueError, RecursionError):
            expected = "section.key=low..high or low..high:log"
            raise JaxlvError("not a range", where=f"--search {text}", expected=expected) from None
        return cls(name.strip(), first, last, scale == "log")

    @property
    def ends(self) -> tuple[Any, Any]:
        """Returns the least and the greatest value; of a list of values the first and the last."""
        return (self.values[0], self.values[-1]) if self.values else (self.low, self.high)

    def draw(self, trial: Any) -> Any:
        """Draws a value for an Optuna trial; a whole number if both ends are whole."""
        if self.values:
            return trial.suggest_categorical(self.setting, list(self.values))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.setting, self.low, self.high, log=self.log)
        return trial.suggest_float(self.setting, float(self.low), float(self.high), log=self.log)


def values_of(text: str, option: str) -> tuple[str, list[Any]]:
    """Returns ("lora.rank", [2, 4, 8]) for "lora.rank=2,4,8". Values are TOML, and bare words are strings.

    Raises JaxlvError, which names the `option`, if the text is not a list of values.
    """
    name, separator, values = text.partition("=")
    if not separator or "." not in name or not values.strip():
        raise JaxlvError("not a list of values", where=f"{option} {text}", expected="section.key=value,value,...")
    try:
        return name.strip(), tomllib.loads(f"values = [{values}]")["values"]
    except (ValueError, RecursionError):
        return name.strip(), [value.strip() for value in values.split(",")]


class Study:
    """An Optuna study of runs: it is asked for settings, and told what they reached (less is better).

    `storage` is a database's address, which others may share, or a file that belongs to this study alone.
    """

    def __init__(self, storage: str | Path, name: str, space: Sequence[Range], seed: int = 0):
        try:
            import optuna
        except ImportError:
            raise JaxlvError("Optuna is not installed", where="--search", hint='pip install "jaxlv[search]"') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed, self.storage, self._optuna = list(space), seed, storage, optuna
        self._own = isinstance(storage, Path)
        begins = isinstance(storage, Path) and not is_there(storage)
        with self._stored("opened"):
            if isinstance(storage, Path) and begins:
                with new_file(storage) as place:
                    self._open(place, name)
                    self._database.engine.dispose()
            self._open(storage, name)

    def _open(self, storage: str | Path, name: str) -> None:
        address = f"sqlite:///{storage}" if isinstance(storage, Path) else storage
        self._database = self._optuna.storages.RDBStorage(address)
        self._study = self._optuna.create_study(storage=self._database, study_name=name, load_if_exists=True)

    @contextlib.contextmanager
    def _stored(self, done: str) -> Iterator[None]:
        """Turns what a database driver raises into a JaxlvError."""
        try:
            yield
        except Exception as fault:
            raise JaxlvError(f"the study cannot be {done} ({printable(fault, 200)})", where=self.storage) from None

    def ask(self, count: int) -> dict[str, dict[str, object]]:
        """Returns {name: settings} of new trials; names are unique within the study."""
        with self._stored("written"):
            trials = [self._study.ask() for _ in range(count)]
            return {_name(trial.number): self._drawn(trial) for trial in trials}

    def _drawn(self, trial: Any) -> dict[str, object]:
        """Returns the settings of a trial, and draws those that it lacks."""
        found = {}
        for place, one in enumerate(self.space):
            seed = np.random.SeedSequence([self.seed, trial.number, place]).generate_state(1)[0]
            # Several are drawn before the first is known: the liar keeps them apart.
            self._study.sampler = self._optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
            found[one.setting] = one.draw(trial)
        return found

    def tell(self, name: str, value: float) -> None:
        """Tells the study what the run of a trial reached; a second time changes nothing."""
        with self._stored("written"):
            self._study.tell(_number(name), value, skip_if_finished=True)

    def known(self, names: Collection[str]) -> dict[str, dict[str, object]]:
        """Returns {name: settings} of the study's trials, finished or not, that have one of these names. If the study is in
        a file of its own, all its trials are returned: a process that died may have drawn settings, or some of them,
        without a run.
        """
        with self._stored("read"):
            numbers = set()
            for trial in self._study.get_trials(deepcopy=False):
                if self._own or _name(trial.number) in names:
                    numbers.add(trial.number)
                if self._own and len(trial.params) < len(self.space):
                    self._drawn(self._optuna.trial.Trial(self._study, trial._trial_id))
            trials = self._study.get_trials(deepcopy=False)
            return {_name(one.number): dict(one.params) for one in trials if one.number in numbers and one.params}


def _name(number: int) -> str:
    return f"{PREFIX}{number:05d}"


def _number(name: str) -> int:
    return int(name.removeprefix(PREFIX))
