"""The budget of a run: its ledger, and what its model's steps are as events there."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxlv.config import RunConfig
from jaxlv.flops.ledger import FINAL, BudgetExceeded, Event, Kind, Ledger, Meter, Terms, begun
from jaxlv.flops.work import Train, Update
from jaxlv.lora import overlay
from jaxlv.model.qwen2 import Qwen2

LEDGER = "ledger.jsonl"  # in a run folder, unless the config names another one


def ledger_of(config: RunConfig, folder: Path, model: Qwen2) -> contextlib.AbstractContextManager[Ledger | None]:
    """The ledger of a config's budget, open for writing; None where there is no budget. Only process 0 writes."""
    b = config.budget
    if not b.flops:
        return contextlib.nullcontext()
    phases = {name: int(value) for name, value in b.phases.items()}
    terms = Terms(int(b.flops), b.convention, model.config, int(b.held_back), phases, b.repeats)
    return Ledger(ledger_path(config, folder), terms, name_in_ledger(config, folder), writes=jax.process_index() == 0)


def name_in_ledger(config: RunConfig, folder: Path) -> str:
    """What a run goes by in its ledger: its folder's name where several share one; its own folder may be renamed."""
    return folder.name if config.budget.ledger else "run"


def ledger_path(config: RunConfig, folder: Path) -> Path:
    """Where the ledger of a run lies: in its folder, or where its config says, seen from there."""
    return Path(os.path.normpath(folder / (config.budget.ledger or LEDGER)))


def event_of(config: RunConfig, adapted: bool = True, stack_rank: int = 0) -> Event:
    """A train step of a config's model, or of the model without its adapters unless `adapted`; other work by `of_kind`.

    `stack_rank` is the largest rank of the runs that it trains together with, to which its adapters are padded.
    """
    c, alphabet = config.lora, config.model.loss == "alphabet"
    trained: dict[str, Train] = {"bias": "bias", "full": "head"}
    return Event(
        "train_step",
        config.train.batch_size,
        config.windows.length,
        rank=c.rank if adapted else 0,
        targets=overlay.normalise_targets(c.targets) if adapted else (),
        head="alphabet" if alphabet else "frozen",
        train=trained.get(c.head, "adapters") if adapted else "adapters",
        kernel=config.model.attention,
        accumulate=config.train.accumulate,
        dtype=config.model.dtype,
        dropout=adapted and c.dropout > 0,
        update=Update.of(config.optimizer, skip=config.train.skip_nonfinite > 0),
        stack_rank=stack_rank if adapted and stack_rank > c.rank else 0,
    )


@dataclass(frozen=True)
class Purse:
    """Pays for work with a finished run's model from the run's ledger, which is open only while something is spent."""

    config: RunConfig
    folder: Path
    model: Qwen2
    adapted: bool = True

    @contextlib.contextmanager
    def spend(self, kind: Kind, **shape: Any) -> Iterator[dict[str, Any]]:
        """Reserve work in the phase "evaluation", run it in the body, commit it. Raises BudgetExceeded if it is too much."""
        with ledger_of(self.config, self.folder, self.model) as book:
            assert book is not None, "a run without a budget has no purse"
            with Meter(book, FINAL, event_of(self.config, self.adapted)).spend(kind, **shape) as measured:
                yield measured


def repeats_of(config: RunConfig, folder: Path) -> str:
    """What a config's ledger says of repeats after interruptions, in words; "" if there were none."""
    path = ledger_path(config, folder)
    book = begun(path) if config.budget.flops and path.is_file() else None
    return book.account.told_repeats() if book else ""


def check_budget(config: RunConfig, model: Qwen2, stack_rank: int = 0) -> None:
    """JaxlvError, before anything is written, for a budget that does not buy a single step."""
    b = config.budget
    if not b.flops:
        return
    step = event_of(config, stack_rank=stack_rank).flops(model.config, b.convention)
    most = min(b.flops - b.held_back, b.phases.get(b.phase, math.inf))
    if step > most:
        raise BudgetExceeded(
            "the budget does not buy one train step",
            where="budget",
            expected=f"at least {step:.4g} FLOPs ({b.convention})",
            found=f"{most:.4g}",
            hint="raise budget.flops, or lower train.batch_size or windows.length",
        )
