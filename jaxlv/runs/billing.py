"""The budget of a run: its ledger, and the events there that its model's steps are."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlv.config import RunConfig
from jaxlv.errors import JaxlvError, printable
from jaxlv.flops.ledger import (
    FINAL,
    Book,
    BudgetExceeded,
    Event,
    Kind,
    Ledger,
    Meter,
    SharedLedger,
    Terms,
    begun,
    other_terms,
)
from jaxlv.flops.work import Train, Update
from jaxlv.lora import overlay
from jaxlv.model.config import ModelConfig
from jaxlv.model.qwen2 import Qwen2
from jaxlv.runs.devices import mesh_sizes
from jaxlv.runs.records import CONFIG, MANIFEST, METRICS, read_config, read_json
from jaxlv.storage import shape
from jaxlv.storage.chain import head_of
from jaxlv.storage.door import is_there

LEDGER = "ledger.jsonl"  # in a run folder, unless the config names another one

Held = Literal["adapters", "bias", "nothing"]  # of its overlay a model holds all, the head's bias, or nothing


def terms_of(config: RunConfig, model: ModelConfig) -> Terms:
    """Returns what a config's budget fixes when its ledger begins. Raises JaxlvError if its parts do not go together."""
    b = config.budget
    assert b.flops is not None
    phases = {name: int(value) for name, value in b.phases.items()}
    return Terms(int(b.flops), b.convention, model, int(b.held_back), phases, b.repeats)


def ledger_of(config: RunConfig, folder: Path, model: Qwen2) -> contextlib.AbstractContextManager[Ledger | None]:
    """Opens the ledger of a config's budget for writing; yields None if there is no budget.

    Raises JaxlvError if the run in `folder` has had a ledger that is gone, or that lacks lines that its head knows of, and
    as `check_none`.
    """
    check_none(config, folder)
    if config.budget.flops is None:
        return contextlib.nullcontext()
    check_there(config, folder)
    path, name = ledger_path(config, folder), name_in_ledger(config, folder)
    kind = SharedLedger if config.budget.several else Ledger
    return kind(path, terms_of(config, model.config), name, head=head_in(config, folder))


def name_in_ledger(config: RunConfig, folder: Path) -> str:
    """Returns the name of a run in its ledger: if several share one, the name that its folder had when it was made."""
    if not config.budget.ledger:
        return "run"
    return first_name(folder) or folder.resolve().name


def first_name(folder: Path) -> str:
    """Returns the name that a run folder had when it was made; "" if the folder is gone, or too old to say."""
    if not is_there(folder / MANIFEST):
        return ""
    return read_json(folder / MANIFEST, lambda tree, path: shape.check(tree, {"run?": str}, path)).get("run", "")


def ledger_path(config: RunConfig, folder: Path) -> Path:
    """Returns where the ledger of a run lies: in its folder, or where its config says, relative to the folder."""
    return Path(os.path.normpath(folder / (config.budget.ledger or LEDGER)))


def head_in(config: RunConfig, folder: Path) -> Path | None:
    """Returns the head file in a run's own folder for a ledger that lies elsewhere; None if the ledger lies in it, or if
    there is no folder.
    """
    own = head_of(folder / LEDGER)
    return own if folder.is_dir() and own != head_of(ledger_path(config, folder)) else None


def check_there(config: RunConfig, folder: Path) -> None:
    """Raises JaxlvError if the ledger of a run is gone, or empty, although its head, or what this run or another one that
    shares the ledger has logged, shows that it existed.
    """
    path = ledger_path(config, folder)
    there = is_there(path)
    if there and path.stat().st_size:
        return
    for place in (head_of(path), *_traces(config, folder), *_traces_beside(config, folder, path)):
        if is_there(place) and place.stat().st_size:
            what = "the ledger is empty" if there else "the ledger is gone"
            raise JaxlvError(what, where=path, expected=f"what {place} tells of", hint="restore it from a copy")


def _traces(config: RunConfig, folder: Path) -> Iterator[Path]:
    """Yields the files that a run leaves in its folder only if its ledger has begun."""
    if head := head_in(config, folder):
        yield head
    yield folder / METRICS


def _traces_beside(config: RunConfig, folder: Path, path: Path) -> Iterator[Path]:
    """Yields the same of the other run folders beside it whose ledger is at `path`; folders that cannot be read are left
    out.
    """
    for other in sorted(folder.parent.glob("*")) if config.budget.ledger else ():
        with contextlib.suppress(JaxlvError):
            if other != folder and is_there(other / CONFIG):
                shared = read_config(other)
                if shared.budget.ledger and ledger_path(shared, other).resolve() == path.resolve():
                    yield from _traces(shared, other)


def check_none(config: RunConfig, folder: Path) -> None:
    """Raises JaxlvError if a run without a budget has a ledger, or a head: it had a budget when these were written."""
    for place in (folder / LEDGER, head_of(folder / LEDGER)):
        if config.budget.flops is None and os.path.lexists(place):
            what, expected = "the ledger of a run that has no budget", "the section [budget] that it had"
            raise JaxlvError(what, where=place, expected=expected, hint=f"restore {folder / CONFIG} from a copy")


def check_ledger(config: RunConfig, folder: Path) -> None:
    """Raises JaxlvError if the ledger of a run is gone, or if it is the run's own and damaged, and as `check_none`."""
    check_none(config, folder)
    if config.budget.flops is not None:
        check_there(config, folder)
        if not config.budget.ledger:
            begun(ledger_path(config, folder))


def book_of(config: RunConfig, folder: Path) -> Book | None:
    """Returns what the ledger of a run says; None if it has no budget, or has not begun.

    Raises JaxlvError if it is gone or damaged, or lacks lines that its head knows of, and as `check_none`.
    """
    check_none(config, folder)
    if config.budget.flops is None:
        return None
    check_there(config, folder)
    return begun(ledger_path(config, folder), filter(None, [head_in(config, folder)]))


def event_of(config: RunConfig, held: Held = "adapters", stack_rank: int = 0) -> Event:
    """Returns the event of a train step of a config's model, with what it holds of its overlay; other work by `of_kind`.

    `stack_rank` is the largest rank of the runs that train together, to which the adapters are padded.
    """
    devices = mesh_sizes(config)
    c, alphabet, adapted = config.lora, config.model.loss == "alphabet", held == "adapters"
    heads: dict[tuple[str, Held], Train] = {
        ("bias", "adapters"): "bias",
        ("bias", "bias"): "bias",
        ("full", "adapters"): "head",
    }
    return Event(
        "train_step",
        config.train.batch_size,
        config.windows.length,
        rank=c.rank if adapted else 0,
        targets=overlay.normalise_targets(c.targets) if adapted else (),
        head="alphabet" if alphabet else "frozen",
        train=heads.get((c.head, held), "adapters"),
        kernel=config.model.attention,
        accumulate=config.train.accumulate,
        dtype=config.model.dtype,
        dropout=adapted and c.dropout > 0,
        update=Update.of(config.optimizer, skip=config.train.skip_nonfinite > 0),
        stack_rank=stack_rank if adapted and stack_rank > c.rank else 0,
        causal=config.causal,
        narrow=config.narrow,
        remat=config.model.remat,
        over_data=devices.data,
        over_model=devices.model,
        weights=config.model.weights,
    )


@dataclass(frozen=True)
class Purse:
    """Pays for work with a finished run's model from the run's ledger, which is open only while something is spent."""

    config: RunConfig
    folder: Path
    model: Qwen2

    @contextlib.contextmanager
    def spend(self, kind: Kind, **shape: Any) -> Iterator[dict[str, Any]]:
        """Reserves work in the phase "evaluation", runs it in the body, and commits it. Raises BudgetExceeded if it is too
        much.
        """
        with ledger_of(self.config, self.folder, self.model) as book:
            assert book is not None, "a run without a budget has no purse"
            with Meter(book, FINAL, event_of(self.config)).spend(kind, **shape) as measured:
                yield measured


def repeats_of(config: RunConfig, folder: Path) -> str:
    """Returns what a config's ledger says of repeats after interruptions, in words; "" if there were none.

    It is called when the work is done: if the ledger cannot be read then, the words say so.
    """
    try:
        book = book_of(config, folder)
    except (JaxlvError, OSError) as fault:
        return f"whether work was repeated cannot be told: {printable(fault)}"
    return book.account.told_repeats() if book else ""


def check_begins(config: RunConfig, folder: Path, model: Qwen2) -> None:
    """Raises JaxlvError, before a run folder is made, if the ledger of a new run is impossible: it has other terms, is
    damaged, is not a regular file, lacks lines that its head knows of, or cannot have a folder.
    """
    if config.budget.flops is None:
        return
    check_there(config, folder)
    path = ledger_path(config, folder)
    book = begun(path)
    if book and book.terms != terms_of(config, model.config):
        raise other_terms(path)
    above = next(place for place in path.parents if os.path.lexists(place))
    if not above.is_dir():
        raise JaxlvError("is not a folder", where=above, expected="a folder for the ledger")


def check_budget(config: RunConfig, model: Qwen2, stack_rank: int = 0) -> None:
    """Raises JaxlvError, before anything is written, if a budget is impossible, or does not buy a single step."""
    b = config.budget
    if b.flops is None:
        return
    terms_of(config, model.config)
    step = event_of(config, stack_rank=stack_rank).flops(model.config, b.convention)
    most = min(b.flops - b.held_back, b.phases.get(b.phase, math.inf))
    if step > most:
        raise BudgetExceeded(
            "the budget does not buy one train step",
            where="budget",
            expected=f"at least {step:.4g} FLOPs ({b.convention})",
            found=f"{most:.4g}",
            hint="raise budget.flops, or lower train.batch_size or windows.length"
            + ("; without the section [budget] there is no budget" if not b.flops else ""),
        )
