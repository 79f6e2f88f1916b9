"""The balance of a budget after each event, in exact small numbers: executed, charged, left, uncertain, repeated."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_ledger import DRAW, MODEL, ONE, STEP

from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import VERSION, BudgetExceeded, Event, Ledger, Meter, Terms, read, read_book, totals, verify
from jaxlv.storage import lines
from jaxlv.storage.chain import head_of

DRAWN = DRAW.flops(MODEL, "exact")
FEWER = replace(DRAW, new_tokens=4)
LESS = FEWER.flops(MODEL, "exact")
READ = replace(STEP, kind="validation", count=3)


def terms(budget: int, **more: Any) -> Terms:
    return Terms(budget, "exact", MODEL, **more)


def block(step: int, count: int = 1) -> Event:
    return replace(STEP, step=step, count=count)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


class Watched:
    """A ledger that can be closed and opened again; `is_` compares its balance, and that of its replayed file, in train
    steps or FLOPs.
    """

    def __init__(self, path: Path, given: Terms, unit: int = ONE):
        self.path, self.terms, self.unit = path, given, unit
        self.ledger = Ledger(path, given)

    def died(self) -> Watched:
        """Reopens the ledger as after the death of its process: what is open stays open."""
        self.ledger.close()
        self.ledger = Ledger(self.path, self.terms)
        return self

    def is_(self, phase: str = "final", **expected: int) -> None:
        """Compares `left` in the phase, and `executed`, `effective`, `uncertain` and `repeated` over all phases."""
        counted = [self.ledger.totals(), totals(read(self.path)[1])]
        assert counted[0] == counted[1]
        found = {name: getattr(counted[0], name) for name in ("executed", "effective", "uncertain", "repeated")}
        found["left"] = self.ledger.left(phase)
        assert {name: found[name] / self.unit for name in expected} == expected


# ---------------------------------------------------------------------------------------- within the budget


def test_a_block_that_is_reserved_before_the_last_one_is_committed_costs_the_same(path):
    """Steps 4 to 6 are reserved while step 3 runs; that the block before it is committed later makes no repeat of them, and
    step 5, done again in the same attempt, stays more work.
    """
    book = Watched(path, terms(10 * ONE))
    first = book.ledger.reserve(block(0, 4), "final")
    second = book.ledger.reserve(block(4, 3), "final")
    book.is_(left=3, executed=7, effective=0, uncertain=7, repeated=0)
    book.ledger.commit(first)
    book.is_(left=3, executed=7, effective=4, uncertain=3, repeated=0)
    book.ledger.commit(book.ledger.reserve(block(5), "final"), block(5))
    book.is_(left=2, executed=8, effective=5, uncertain=3, repeated=0)
    book.ledger.commit(second, block(4, 2))
    third = book.ledger.reserve(block(6, 1), "final")
    book.is_(left=2, executed=8, effective=7, uncertain=1, repeated=0)
    book.ledger.commit(third)
    book.is_(left=2, executed=8, effective=8, uncertain=0, repeated=0)
    assert verify(path) == []


def test_each_event_of_a_run_moves_the_balance_by_its_price(path):
    book = Watched(path, terms(10 * ONE))
    book.is_(left=10, executed=0, effective=0, uncertain=0, repeated=0)
    entry = book.ledger.reserve(block(0, 4), "final")
    book.is_(left=6, executed=4, effective=0, uncertain=4, repeated=0)
    book.ledger.commit(entry)
    book.is_(left=6, executed=4, effective=4, uncertain=0, repeated=0)
    entry = book.ledger.reserve(block(4, 5), "final")
    book.is_(left=1, executed=9, effective=4, uncertain=5, repeated=0)
    book.ledger.commit(entry, block(4, 2))  # stopped after two steps: the rest is given back
    book.is_(left=4, executed=6, effective=6, uncertain=0, repeated=0)
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(6, 5), "final")
    book.is_(left=4, executed=6, effective=6, uncertain=0, repeated=0)
    assert verify(path) == []


def test_a_generation_is_held_at_its_longest_and_paid_as_far_as_it_ran(path):
    book = Watched(path, terms(2 * DRAWN - 1), unit=1)
    entry = book.ledger.reserve(DRAW, "final")
    book.is_(left=DRAWN - 1, executed=DRAWN, effective=0, uncertain=DRAWN)
    book.ledger.commit(entry, FEWER)
    assert 0 < LESS < DRAWN
    book.is_(left=2 * DRAWN - 1 - LESS, executed=LESS, effective=LESS, uncertain=0)
    book.ledger.reserve(DRAW, "final")  # would not fit if the first had been paid at its longest


def test_what_a_kill_leaves_uncertain_stays_spent_and_its_repeat_is_spent_again(path):
    book = Watched(path, terms(10 * ONE))
    book.ledger.commit(book.ledger.reserve(block(0, 3), "final"))
    book.ledger.reserve(block(3, 2), "final")
    book.died().is_(left=5, executed=5, effective=3, uncertain=2, repeated=0)
    entry = book.ledger.reserve(block(2, 3), "final")  # from the checkpoint of step 2
    book.is_(left=2, executed=8, effective=3, uncertain=5, repeated=3)
    book.ledger.commit(entry)
    book.is_(left=2, executed=8, effective=5, uncertain=2, repeated=3)
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(5, 3), "final")
    assert book.ledger.fitting([block(5, 9)], "final") == 2
    book.ledger.commit(book.ledger.reserve(block(5, 2), "final"))
    book.is_(left=0, executed=10, effective=7, uncertain=2, repeated=3)
    assert verify(path) == []


def test_training_never_executes_more_than_its_budget_however_often_it_is_killed(path):
    book = Watched(path, terms(9 * ONE))
    for _ in range(20):
        if not (count := book.ledger.fitting([block(1, 2)], "final")):
            break
        book.ledger.reserve(block(1, count), "final")
        book.died()
    book.is_(left=0, executed=9, effective=0, uncertain=9, repeated=7)
    assert verify(path) == []


def test_what_is_held_back_and_envelopes_bound_each_phase_after_each_event(path):
    book = Watched(path, terms(10 * ONE, held_back=3 * ONE, envelopes={"grid": 2 * ONE}))
    book.is_("grid", left=2)
    book.is_("final", left=7)
    book.is_("evaluation", left=10)
    entry = book.ledger.reserve(block(0, 2), "grid")
    book.is_("grid", left=0)
    book.is_("final", left=5)
    book.ledger.commit(entry, block(0, 1))
    book.is_("grid", left=1)
    book.is_("final", left=6)
    book.ledger.commit(book.ledger.reserve(block(0, 6), "final"))
    book.is_("grid", left=0)  # its envelope would hold a step, but the budget has only what is held back
    book.is_("evaluation", left=3)
    entry = book.ledger.reserve(block(0, 3), "evaluation")
    book.is_("evaluation", left=0)
    book.ledger.commit(entry, block(0, 1))
    book.is_("evaluation", left=2)
    book.is_("final", left=0, executed=8)
    assert verify(path) == []


def test_the_validations_of_different_steps_are_different_work(path):
    """Three batches at each step: validations of different steps are not repeats of each other."""
    price = READ.flops(MODEL, "exact")
    book = Watched(path, terms(9 * price), unit=price)
    for step in (1, 2, 3):
        book.ledger.commit(book.ledger.reserve(replace(READ, step=step), "final"))
    book.is_(executed=3, effective=3, repeated=0)


# ---------------------------------------------------------------------------------------- beyond the budget


def test_repeats_beyond_the_budget_leave_the_balance_as_it_was(path):
    """Reserved, committed, killed after a checkpoint, killed within the repeat: what is left is as if nothing had been
    killed.
    """
    book = Watched(path, terms(6 * ONE, repeats="beyond"))
    book.ledger.commit(book.ledger.reserve(block(0, 2), "final"))
    book.ledger.reserve(block(2, 2), "final")
    book.died().is_(left=2, executed=4, effective=2, uncertain=2, repeated=0)
    assert book.ledger.fitting([block(1, 9)], "final") == 5  # three that were paid for, and two new ones
    book.ledger.reserve(block(1, 2), "final")  # one committed, one not
    book.is_(left=2, executed=6, effective=2, uncertain=4, repeated=2)
    book.died().is_(left=2, executed=6, effective=2, uncertain=4, repeated=2)
    entry = book.ledger.reserve(block(1, 4), "final")  # three that were paid for, and a new one
    book.is_(left=1, executed=10, effective=2, uncertain=8, repeated=5)
    book.ledger.commit(entry)
    book.is_(left=1, executed=10, effective=5, uncertain=4, repeated=5)
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(5, 2), "final")
    assert book.ledger.fitting([block(5, 9)], "final") == 1
    book.ledger.commit(book.ledger.reserve(block(5), "final"))
    book.is_(left=0, executed=11, effective=6, uncertain=4, repeated=5)
    assert verify(path) == []  # 11 of 6 were executed, which is not an overrun
    assert book.ledger.book.account.told_repeats().endswith(
        f"{5 * ONE:,} FLOPs of {11 * ONE:,}; with them {5 * ONE:,} FLOPs more than the budget were executed"
    )


def test_many_kills_in_one_block_end_all_the_same(path):
    book = Watched(path, terms(4 * ONE, repeats="beyond", envelopes={"grid": 4 * ONE}))
    for kills in range(1, 11):
        book.ledger.reserve(block(0, 2), "grid")
        book.died().is_("grid", left=2, executed=2 * kills, repeated=2 * (kills - 1))
    book.ledger.commit(book.ledger.reserve(block(0, 4), "grid"))
    book.is_("grid", left=0, executed=24, effective=4, uncertain=20, repeated=20)
    assert verify(path) == []


def test_a_repeated_generation_costs_what_it_ran_not_what_was_held_for_it(path):
    book = Watched(path, terms(DRAWN + LESS, repeats="beyond"), unit=1)
    book.ledger.reserve(DRAW, "final")
    book.died().is_(left=LESS, executed=DRAWN)
    again = book.ledger.reserve(DRAW, "final")
    book.is_(left=LESS, executed=2 * DRAWN, repeated=DRAWN)
    book.ledger.commit(again, FEWER)
    book.is_(left=DRAWN, executed=DRAWN + LESS, effective=LESS, uncertain=DRAWN, repeated=DRAWN)
    book.died().ledger.reserve(DRAW, "final")  # reserved again at no cost, as it was paid for as far as it ran
    book.is_(left=DRAWN, executed=2 * DRAWN + LESS, repeated=DRAWN + DRAWN)


def test_the_same_steps_twice_in_one_attempt_are_no_repeat(path):
    book = Watched(path, terms(5 * ONE, repeats="beyond"))
    book.ledger.commit(book.ledger.reserve(block(0, 2), "final"))
    book.ledger.commit(book.ledger.reserve(block(0, 2), "final"))
    book.is_(left=1, executed=4, effective=4, repeated=0)
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(1, 2), "final")
    book.died()
    for _ in range(2):  # the next attempt may repeat either
        book.ledger.commit(book.ledger.reserve(block(0, 2), "final"))
    book.is_(left=1, executed=8, effective=4, repeated=4)


def test_what_was_reserved_and_given_back_is_new_work_later(path):
    book = Watched(path, terms(5 * ONE, repeats="beyond"))
    book.ledger.commit(book.ledger.reserve(block(0, 5), "final"), block(0, 1))
    book.died().is_(left=4, executed=1)
    book.ledger.commit(book.ledger.reserve(block(0, 5), "final"))
    book.is_(left=0, executed=6, effective=5, repeated=1)


def test_a_block_that_was_cut_short_is_gone_on_with_in_the_same_attempt(path):
    book = Watched(path, terms(9 * ONE, repeats="beyond"))
    book.ledger.commit(book.ledger.reserve(block(0, 5), "final"), block(0, 2))
    book.ledger.commit(book.ledger.reserve(block(2, 2), "final"))
    book.died().ledger.commit(book.ledger.reserve(block(0, 4), "final"))
    book.is_(left=5, executed=8, effective=4, repeated=4)


def test_the_repeats_of_a_dearer_piece_are_charged_for_what_they_cost_more(path):
    """Half the batch, twice accumulated, and then a longer one: the piece costs what the most expensive did."""
    twice = replace(STEP, accumulate=2)
    book = Watched(path, terms(3 * ONE, repeats="beyond"))
    book.ledger.commit(book.ledger.reserve(STEP, "final"))
    book.died().ledger.commit(book.ledger.reserve(twice, "final"))
    book.is_(left=1, executed=3, effective=2, repeated=1)
    book.died().ledger.commit(book.ledger.reserve(STEP, "final"))
    book.is_(left=1, executed=4, effective=1, repeated=2)


def test_other_runs_and_phases_have_work_of_their_own(path):
    book = Watched(path, terms(9 * ONE, repeats="beyond"))
    for run, phase in (("a", "grid"), ("b", "grid"), ("a", "final")):
        book.died().ledger.commit(book.ledger.reserve(STEP, phase, run))
    book.is_(left=6, executed=3, effective=3, repeated=0)


# -------------------------------------------------------------------------------------------- the evaluation


def test_an_evaluation_that_was_killed_is_repeated_beyond_any_budget(path):
    """The budget holds one evaluation of two batches. Its third attempt finishes, as the first would have."""
    book = Watched(path, terms(5 * ONE + LESS + DRAWN, held_back=LESS + DRAWN), unit=1)
    book.ledger.commit(book.ledger.reserve(block(0, 5), "final"))
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(5), "final")
    for attempt in range(3):
        book.ledger.commit(book.ledger.reserve(DRAW, "evaluation", purpose="e"), FEWER)
        book.is_("evaluation", left=0 if attempt else DRAWN)
        book.ledger.reserve(DRAW, "evaluation", purpose="e")
        book.died().is_("evaluation", left=0)
    for _ in range(2):
        book.ledger.commit(book.ledger.reserve(DRAW, "evaluation", purpose="e"), FEWER)
    ran = 5 * ONE + 5 * LESS + 3 * DRAWN
    book.is_("evaluation", left=DRAWN - LESS, executed=ran, effective=5 * ONE + 2 * LESS, repeated=3 * (LESS + DRAWN))
    assert verify(path) == []


def test_a_result_that_was_kept_is_not_repeated_for_nothing(path):
    book = Watched(path, terms(3 * ONE, held_back=2 * ONE))
    book.ledger.commit(book.ledger.reserve(block(0, 2), "evaluation", purpose="e"))
    book.ledger.keep("evaluation", "e")
    book.died().is_("evaluation", left=1)
    with pytest.raises(BudgetExceeded):
        book.ledger.reserve(block(0, 2), "evaluation", purpose="e")
    book.ledger.commit(book.ledger.reserve(STEP, "evaluation", purpose="e"))
    book.is_("evaluation", left=0, executed=3, effective=3, repeated=0)
    book.ledger.keep("evaluation", "e")
    assert [entry.kept for entry in book.ledger.entries] == [0, 1]
    assert book.died().ledger.book.kept["run", "evaluation", "e"] == 2


def test_a_result_that_is_kept_begins_a_new_one_in_the_same_process(path):
    with Ledger(path, terms(9 * ONE)) as ledger:
        for _ in range(2):
            ledger.commit(ledger.reserve(STEP, "evaluation", purpose="e"))
            ledger.keep("evaluation", "e")
        assert [entry.kept for entry in ledger.entries] == [0, 1]


def test_another_purpose_or_none_is_other_work(path):
    book = Watched(path, terms(3 * ONE))
    for purpose in ("e", "f", ""):
        book.died().ledger.commit(book.ledger.reserve(STEP, "evaluation", purpose=purpose))
    book.is_("evaluation", left=0, executed=3, effective=3, repeated=0)
    with pytest.raises(BudgetExceeded):
        book.died().ledger.reserve(STEP, "evaluation")


def test_a_meter_says_what_its_work_is_for(path):
    with Ledger(path, terms(9 * ONE)) as ledger:
        meter = Meter(ledger, "evaluation", STEP, "a", "e")
        with meter.spend("generation", **{n: getattr(DRAW, n) for n in ("samples", "new_tokens", "slots", "length")}) as ran:
            ran["new_tokens"] = 4
    (entry,) = read(path)[1]
    assert (entry.run, entry.purpose, entry.event.new_tokens, entry.reserved.new_tokens) == ("a", "e", 4, 10)


def test_every_line_is_on_disk_before_the_work_goes_on(path, monkeypatch):
    flushed, sync = [], os.fsync

    def fsync(handle: int) -> None:
        sync(handle)
        if os.path.samestat(os.fstat(handle), path.stat()):
            flushed.append(path.read_bytes().count(b"\n"))

    monkeypatch.setattr(os, "fsync", fsync)
    with Ledger(path, terms(9 * ONE)) as ledger:
        assert flushed == [1]
        entry = ledger.reserve(STEP, "evaluation", purpose="e")
        assert flushed == [1, 2]
        ledger.commit(entry)
        assert flushed == [1, 2, 3]
        ledger.keep("evaluation", "e")
        assert flushed == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------ what a file says


def written(path: Path, *records: dict[str, Any]) -> Path:
    """Writes a ledger as versions before 4 did: without a chain and without a head."""
    head_of(path).unlink(missing_ok=True)
    path.write_bytes(b"".join(map(lines.encode, records)))
    return path


def header(path: Path, given: Terms) -> dict[str, Any]:
    Ledger(path, given).close()
    return lines.read(path)[0] | {"ledger": 3}


def reserved(number: int, event: Event, attempt: int = 1, phase: str = "final", **more: Any) -> dict[str, Any]:
    tree = {"kind": event.kind, "batch": event.batch, "length": event.length, "rank": event.rank, "step": event.step}
    tree |= {"targets": list(event.targets), "count": event.count}
    price = event.flops(MODEL, "exact")
    return {"reserve": number, "run": "run", "attempt": attempt, "phase": phase, "event": tree, "flops": price, **more}


def committed(number: int, event: Event) -> dict[str, Any]:
    found = reserved(number, event)
    return {"commit": number, "event": found["event"], "flops": found["flops"]}


def test_an_overrun_is_not_hidden_by_what_follows(path):
    """Six steps under a budget of five, two of which a commit gives back: they were never covered."""
    first = header(path, terms(5 * ONE))
    written(path, first, reserved(0, block(0, 6)), committed(0, block(0, 4)))
    (found,) = verify(path)
    assert found == f"overrun: entry 0 takes {ONE:,} FLOPs more than were left for final"


@pytest.mark.parametrize("repeats", ["within", "beyond"])
def test_a_repeat_is_an_overrun_only_within_the_budget(path, repeats):
    first = header(path, terms(2 * ONE, repeats=repeats))
    written(path, first, *(reserved(n, block(0, 2), n + 1) for n in range(3)))
    assert bool(verify(path)) == (repeats == "within")


def test_steps_that_no_attempt_had_paid_for_are_an_overrun_though_they_stand_among_repeats(path):
    first = header(path, terms(2 * ONE, repeats="beyond"))
    written(path, first, reserved(0, block(0, 2)), reserved(1, block(0, 3), 2))
    found = verify(path)
    assert f"overrun: entry 1 takes {ONE:,} FLOPs more than were left for final" in found
    assert f"overrun: {3 * ONE:,} spent of {2 * ONE:,}" in found


def test_a_reservation_that_was_dearer_than_its_work_is_found(path):
    first = header(path, terms(9 * ONE))
    written(path, first, reserved(0, STEP) | {"flops": 3 * ONE}, committed(0, STEP))
    assert verify(path) == [f"entry 0: {3 * ONE:,} FLOPs recorded, {ONE:,} by its shapes"]


def test_what_is_held_back_is_not_taken_by_other_phases(path):
    first = header(path, terms(4 * ONE, held_back=2 * ONE))
    written(path, first, reserved(0, block(0, 3)))
    assert f"overrun of what is not held back: {3 * ONE:,} spent of {2 * ONE:,}" in verify(path)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([reserved(1, STEP)], "reservations are not in order"),
        ([reserved(0, STEP, 2)], "attempts are not in order"),
        ([reserved(0, STEP), reserved(1, STEP, 2), reserved(2, STEP)], "attempts are not in order"),
        ([reserved(0, STEP), reserved(1, STEP, 2), committed(0, STEP)], "by another attempt"),
        ([reserved(0, STEP), committed(0, block(0, 2))], "more was done than reserved"),
        ([reserved(0, STEP), committed(0, block(0, 2)) | {"flops": ONE}], "more was done than reserved"),
        ([reserved(0, STEP), committed(0, STEP) | {"flops": ONE + 1}], "more was done than reserved"),
        ([reserved(0, block(0, 2)), committed(0, block(1))], "or other work"),
        ([reserved(0, STEP), {"keep": 1, "run": "run", "phase": "final"}], "not a text"),
        ([reserved(0, STEP, purpose=3)], "not a text"),
    ],
)
def test_what_no_program_can_have_written_is_damage(path, records, message):
    written(path, header(path, terms(9 * ONE)), *records)
    with pytest.raises(JaxlvError, match=message):
        read(path)


@pytest.mark.parametrize("version", [1, 5, "3"])
def test_a_ledger_of_another_version_is_refused(version, path):
    written(path, header(path, terms(9 * ONE)) | {"ledger": version})
    with pytest.raises(JaxlvError, match=f"line 1: damaged line .*version {version}"):
        read(path)


@pytest.mark.parametrize(
    "changed", [{"held_back": 1}, {"envelopes": {"final": 1}}, {"repeats": "beyond"}, {"convention": "hf"}]
)
def test_a_ledger_goes_on_under_its_own_terms_alone(changed, path):
    Ledger(path, terms(9 * ONE)).close()
    with pytest.raises(JaxlvError, match="not the one that the ledger began with"):
        Ledger(path, replace(terms(9 * ONE), **changed))


def test_an_attempt_leaves_one_reservation_open_at_most_or_two_blocks_that_adjoin(path):
    """A process does one thing at a time: two attempts may leave one open reservation each, but one attempt never two.
    Only the block of steps after the present one is reserved ahead.
    """
    adjoin = "at most one can be, or two blocks of steps that adjoin"
    first = header(path, terms(9 * ONE))
    written(path, first, reserved(0, STEP), reserved(1, STEP, 2))
    assert verify(path) == []
    written(path, first, reserved(0, block(0, 2)), reserved(1, block(2)))
    assert verify(path) == []
    for second in (block(1), block(3), replace(READ, step=2)):
        written(path, first, reserved(0, block(0, 2)), reserved(1, second))
        assert verify(path) == [f"run run, attempt 1: 2 reservations without a commit, {adjoin}"]
    written(path, first, reserved(0, block(0, 2)), reserved(1, block(2)), reserved(2, block(3)))
    assert verify(path) == [f"run run, attempt 1: 3 reservations without a commit, {adjoin}"]


def test_a_ledger_of_the_version_before_is_read_and_goes_on(path):
    first = header(path, terms(9 * ONE)) | {"ledger": 2}
    first.pop("repeats")
    written(path, first, reserved(0, block(0, 2)), committed(0, block(0, 2)), reserved(1, block(2, 2)))
    with Ledger(path, terms(9 * ONE)) as ledger:
        assert (ledger.left("final"), ledger.totals().uncertain) == (5 * ONE, 2 * ONE)
        ledger.commit(ledger.reserve(block(2, 2), "final"))
        ledger.reserve(STEP, "evaluation", purpose="e")
    assert verify(path) == [] and read(path)[1][-1].purpose == "e"
    told = "lines 1 to 4 were written before lines were chained: changes made in them before the head knew of line 6"
    assert read_book(path).lacks.startswith(told)
    with path.open("ab") as file:
        file.write(lines.encode({"keep": "e", "run": "run", "phase": "evaluation"}))
    with pytest.raises(JaxlvError, match=r"line 8: damaged line \(not chained, although lines before it are\)"):
        read(path)


def test_what_an_older_ledger_lacks_is_said(path):
    written(path, header(path, terms(9 * ONE)) | {"ledger": 3}, reserved(0, STEP), committed(0, STEP))
    assert verify(path) == []
    assert read_book(path).lacks == (
        "lines 1 to 3 were written before lines were chained: a line changed with its checksum is not detected, nor are"
        " lines cut off the end"
    )


def test_a_ledger_of_a_version_with_a_chain_has_one(path):
    written(path, header(path, terms(9 * ONE)) | {"ledger": VERSION}, reserved(0, STEP), committed(0, STEP))
    with pytest.raises(JaxlvError, match=r"line 1: damaged lines \(not chained\)"):
        read(path)


def test_a_ledger_whose_first_line_was_torn_begins_anew(path):
    given = terms(9 * ONE)
    whole = lines.encode(header(path, given), "")
    for content in (b"", whole[:-20]):
        path.write_bytes(content)
        head_of(path).unlink()  # it is written after that line
        with pytest.raises(JaxlvError, match="an empty ledger"):
            Ledger(path)
        with Ledger(path, given) as ledger:
            ledger.reserve(STEP, "final")
        assert len(read(path)[1]) == 1


def test_long_runs_of_steps_take_no_room_of_their_own(path):
    """A file of a few lines that claims a hundred million steps is balanced at once."""
    first = header(path, terms(10**9 * ONE, repeats="beyond"))
    records = [reserved(n, block(10**6 * (n // 2), 10**6), 1 + n // 2) for n in range(0, 200)]
    written(path, first, *records)
    counted = totals(read(path)[1])
    assert counted.executed == 200 * 10**6 * ONE and counted.repeated == 0
