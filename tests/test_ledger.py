"""The ledger: nothing overshoots, nothing is lost, nothing counts twice, and a damaged file is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import (
    BudgetExceeded,
    Event,
    Ledger,
    SharedLedger,
    Terms,
    begun,
    noted,
    read,
    read_book,
    totals,
    verify,
)
from jaxlv.model.config import ModelConfig
from jaxlv.storage import chain, lines
from jaxlv.storage.chain import head_of
from jaxlv.studies.spending import spending
from tests.forged import forge, forge_all

MODEL = ModelConfig(97, 40, 56, 3, 4, 2, 10, tie_word_embeddings=True)
STEP = Event("train_step", batch=2, length=12, rank=3, targets=("q_proj", "v_proj"))
ONE = STEP.flops(MODEL, "exact")
DRAW = Event("generation", batch=2, length=16, samples=3, new_tokens=10, slots=26)


def terms(steps: float, **more) -> Terms:
    return Terms(int(steps * ONE), "exact", MODEL, **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


# ------------------------------------------------------------------------------------- reserve, run, commit


def test_nothing_overshoots(path):
    with Ledger(path, terms(3.5)) as ledger:
        for step in range(3):
            ledger.commit(ledger.reserve(Event(**{**vars(STEP), "step": step}), "final"))
        before = path.read_bytes()
        with pytest.raises(BudgetExceeded, match=r"does not hold 1 train step.*spent so far") as caught:
            ledger.reserve(STEP, "final")
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert ledger.totals().executed == 3 * ONE <= ledger.terms.budget


def test_one_reservation_may_cover_many_steps(path):
    with Ledger(path, terms(7)) as ledger:
        block = Event(**{**vars(STEP), "count": 5})
        ledger.commit(ledger.reserve(block, "final"))
        assert ledger.fitting([block], "final") == 2
        assert ledger.totals().executed == 5 * ONE
        assert ledger.bought() == f"spent so far: {5 * ONE:.4g} of {7 * ONE:.4g} (71.4%), 5 train steps"
        with pytest.raises(BudgetExceeded, match="5 train steps"):
            ledger.reserve(block, "final")


def test_a_budget_too_small_for_one_step(path):
    with Ledger(path, terms(0.9)) as ledger:
        assert ledger.fitting([STEP], "final") == 0
        with pytest.raises(BudgetExceeded):
            ledger.reserve(STEP, "final")


def test_a_generation_reserves_the_most_and_commits_what_ran(path):
    with Ledger(path, Terms(10 * DRAW.flops(MODEL, "exact"), "exact", MODEL)) as ledger:
        entry = ledger.reserve(DRAW, "validation")
        reserved = ledger.totals().executed
        ledger.commit(entry, Event(**{**vars(DRAW), "new_tokens": 4}))
        assert 0 < ledger.totals().executed < reserved
        more = ledger.reserve(DRAW, "validation")
        with pytest.raises(JaxlvError, match="more was done than reserved"):
            ledger.commit(more, Event(**{**vars(DRAW), "new_tokens": 11}))


def test_what_is_held_back_is_for_the_evaluation_alone(path):
    with Ledger(path, terms(5, held_back=2 * ONE)) as ledger:
        assert ledger.left("final") == 3 * ONE
        assert ledger.left("evaluation") == 5 * ONE
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 3}), "final"))
        with pytest.raises(BudgetExceeded):
            ledger.reserve(STEP, "final")
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 2}), "evaluation"))
        assert ledger.left("evaluation") == 0


def test_an_evaluation_before_the_last_run_takes_from_what_is_held_back(path):
    with Ledger(path, terms(5, held_back=2 * ONE)) as ledger:
        ledger.commit(ledger.reserve(STEP, "evaluation"))
        assert ledger.left("final") == 3 * ONE
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 2}), "evaluation"))  # one more than was held back
        assert ledger.left("final") == 2 * ONE


def test_phases_have_envelopes(path):
    with Ledger(path, terms(10, envelopes={"grid": 2 * ONE})) as ledger:
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 2}), "grid"))
        with pytest.raises(BudgetExceeded, match="left for grid"):
            ledger.reserve(STEP, "grid")
        ledger.commit(ledger.reserve(STEP, "final"))


def test_terms_that_cannot_hold_are_refused():
    with pytest.raises(JaxlvError, match="phases together exceed"):
        terms(3, envelopes={"grid": 2 * ONE, "final": 2 * ONE})
    with pytest.raises(JaxlvError, match="within the budget"):
        terms(1, held_back=2 * ONE)
    with pytest.raises(JaxlvError, match="unknown convention"):
        Terms(10, "gpt", MODEL)


def test_any_convention_can_be_recomputed(path):
    with Ledger(path, terms(9)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
        for name in ("coursework", "mao", "liu", "hf"):
            assert totals(ledger.entries, MODEL, name).executed == STEP.flops(MODEL, name)


def test_totals_recomputed_in_the_convention_of_the_ledger_are_those_recorded(path):
    price = DRAW.flops(MODEL, "exact")
    with Ledger(path, Terms(9 * price, "exact", MODEL, repeats="beyond")) as ledger:
        ended = replace(DRAW, new_tokens=4)
        ledger.commit(ledger.reserve(DRAW, "validation"), ended)
    with Ledger(path) as again:  # the same generation after a resume; the first had reserved as much
        again.reserve(DRAW, "validation")
        assert totals(again.entries) == totals(again.entries, MODEL, "exact") == again.totals()
        assert again.totals().repeated == price
        assert again.totals().executed == price + ended.flops(MODEL, "exact")


def test_uncached_generation_costs_a_pass_per_token():
    cached = DRAW.flops(MODEL, "exact")
    assert Event(**{**vars(DRAW), "cached": False}).flops(MODEL, "exact") > 5 * cached


# ---------------------------------------------------------------------------------------------------- crashes


def test_a_crash_leaves_its_reservation_spent_and_uncertain(path):
    with Ledger(path, terms(10)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
        ledger.reserve(Event(**{**vars(STEP), "step": 1}), "final")
    with Ledger(path) as again:
        assert again.totals().executed == 2 * ONE
        assert again.totals().uncertain == ONE
        repeated = again.reserve(Event(**{**vars(STEP), "step": 1}), "final")
        assert repeated.attempt == 2
        again.commit(repeated)
        assert again.totals().executed == 3 * ONE
        assert again.totals().effective == 2 * ONE
    assert verify(path) == []


def test_attempts_are_counted_for_each_run_of_a_ledger(path):
    with Ledger(path, terms(20), run="first") as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
        ledger.commit(ledger.reserve(STEP, "final", run="second"))
    with Ledger(path, run="first") as again:
        found = [again.reserve(STEP, "final", run=name) for name in ("first", "second", "third")]
        assert [(entry.run, entry.attempt) for entry in found] == [("first", 2), ("second", 2), ("third", 1)]


def test_what_fits_of_a_run_that_shares_a_ledger_does_not_count_what_that_run_repeats(path):
    block = replace(STEP, count=3)
    with Ledger(path, terms(4, repeats="beyond"), run="first") as ledger:
        ledger.reserve(block, "final", run="second")
    with Ledger(path, run="first") as again:
        assert again.fitting([block], "final", ["second"]) == 3
        assert again.fitting([block], "final", ["third"]) == again.fitting([block], "final") == 1
        assert again.fitting([block, block], "final", ["second", "third"]) == 1


def test_a_resume_that_repeats_steps_counts_them_once_in_the_effective_total(path):
    with Ledger(path, terms(20)) as ledger:
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 6}), "final"))
    with Ledger(path) as again:  # from the checkpoint of step 4
        again.commit(again.reserve(Event(**{**vars(STEP), "step": 4, "count": 4}), "final"))
        assert again.totals().executed == 10 * ONE
        assert again.totals().effective == 8 * ONE


def test_pieces_of_work_at_one_step_add_up_and_a_resume_repeats_them(path):
    price = DRAW.flops(MODEL, "exact")
    with Ledger(path, Terms(100 * price, "exact", MODEL)) as ledger:
        for _ in range(3):  # batches of one validation
            ledger.commit(ledger.reserve(DRAW, "validation"))
        assert ledger.totals().effective == ledger.totals().executed == 3 * price
    with Ledger(path) as again:  # the same validation, after a resume
        for _ in range(3):
            again.commit(again.reserve(DRAW, "validation"))
        assert again.totals().executed == 6 * price
        assert again.totals().effective == 3 * price
        for _ in range(2):  # an evaluation is never resumed
            again.commit(again.reserve(DRAW, "evaluation"))
    with Ledger(path) as once_more:
        once_more.commit(once_more.reserve(DRAW, "evaluation"))
        assert once_more.totals().effective == 6 * price


@pytest.mark.parametrize("cut", [2, 5, 30])
def test_a_torn_last_line_is_cut(path, cut):
    with Ledger(path, terms(10)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
        ledger.reserve(STEP, "final")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Ledger(path) as again:
        assert again.totals().executed == ONE
    assert path.read_bytes() == whole[: whole[:-1].rfind(b"\n") + 1]


DAMAGE = [b"{\n", b"[]\n", b'{"commit":0}\n']  # not a record, and records that say something impossible
DAMAGE += [lines.encode({"commit": 7})]
CANNOT_BE = [
    {"commit": 7}, {"commit": -1}, {"commit": False}, {"reserve": 9}, {"commit": 0, "event": {"kind": "x"}}, {"x": 1}, {},
]  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGE, *CANNOT_BE], ids=str)
def test_a_damaged_line_is_named(path, damage):
    with Ledger(path, terms(10)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
    if isinstance(damage, dict):
        forge_all(path, lambda all: [all[0], damage, *all[1:]])
    else:
        written = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([written[0], damage, *written[1:]]))
    before = path.read_bytes()
    for act in (Ledger, read, verify):
        with pytest.raises(JaxlvError, match="line 2: damaged line") as caught:
            act(path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_second_writer_is_refused(path):
    with Ledger(path, terms(10)), pytest.raises(JaxlvError, match="another process writes to it"):
        Ledger(path)
    Ledger(path).close()


def test_other_terms_are_refused(path):
    Ledger(path, terms(10)).close()
    Ledger(path, terms(10)).close()
    with pytest.raises(JaxlvError, match="not the one that the ledger began with"):
        Ledger(path, terms(11))


def test_verify_finds_figures_that_disagree(path):
    with Ledger(path, terms(3)) as ledger:
        ledger.commit(ledger.reserve(Event(**{**vars(STEP), "count": 2}), "final"))
    assert verify(path) == []
    forge_all(path, lambda all: [one | ({"flops": 5 * ONE} if "flops" in one else {}) for one in all])
    found = verify(path)
    assert any("by its shapes" in line for line in found)
    assert any("overrun" in line for line in found)


KILLER = """
    import os, random, signal, sys, time
    from dataclasses import replace
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from jaxlv.flops.ledger import BudgetExceeded, Ledger
    from test_ledger import STEP, terms

    def work(ready):
        out = open(sys.argv[2], "ab", buffering=0)
        with Ledger(Path(sys.argv[1]), terms(100_000)) as ledger:
            while True:
                entry = ledger.reserve(replace(STEP, step=len(ledger.entries)), "final")
                out.write(b"x")  # the work, done between reservation and commit
                ledger.commit(entry)
                os.write(ready, b"r")

    STEP.flops(terms(1).model, "exact")
    rng = random.Random(0)
    for kill in range(int(sys.argv[4])):
        listen, ready = os.pipe()
        child = os.fork()
        if not child:
            work(ready)
        os.close(ready)
        if kill % 5:  # now and then it is killed while it starts
            os.read(listen, 1)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(listen)
"""


def test_kills_at_random_instants(path, tmp_path):
    """After 100 kills every piece of work is counted, none twice, with at most one reservation too many per kill."""
    done, kills = tmp_path / "done", 100
    arguments = [str(path), str(done), str(Path(__file__).parent), str(kills)]
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLER), *arguments], check=True, timeout=300)
    ledger_terms, entries = read(path)
    worked = done.stat().st_size
    assert worked >= 0.8 * kills  # all except those killed during their start have done some work
    assert totals(entries).executed == len(entries) * ONE <= ledger_terms.budget
    assert worked <= len(entries) <= worked + kills
    assert sum(not entry.committed for entry in entries) <= kills
    assert verify(path) == []


def test_lines_are_json(path):
    with Ledger(path, terms(2)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
    first, reserve, commit = lines.read(path)
    assert [json.loads(line).keys() - {"sha256"} for line in path.open()] == [first.keys(), reserve.keys(), commit.keys()]
    assert first["convention"] == "exact"
    assert reserve["event"]["targets"] == ["q_proj", "v_proj"]
    assert commit == {"commit": 0, "event": reserve["event"], "flops": ONE}


# ---------------------------------------------------------------------------------------------- the chain


@pytest.fixture
def spent(path) -> Path:
    """Writes a ledger of training, of an evaluation whose result was kept, and of another evaluation."""
    with Ledger(path, terms(9, held_back=2 * ONE)) as ledger:
        ledger.commit(ledger.reserve(replace(STEP, count=3), "final"))
        ledger.commit(ledger.reserve(STEP, "evaluation", purpose="e"))
        ledger.keep("evaluation", "e")
        ledger.commit(ledger.reserve(STEP, "evaluation", purpose="f"))
    return path


def refused(path: Path, words: str) -> None:
    """Checks that everything that reads the ledger or writes to it raises one line, and changes nothing."""
    before = path.read_bytes() if path.exists() else None
    for act in (verify, read, begun, Ledger, lambda place: Ledger(place, terms(9, held_back=2 * ONE))):
        with pytest.raises(JaxlvError, match=words) as caught:
            act(path)
        assert "\n" not in str(caught.value)
        assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("last", range(8))
def test_lines_that_are_cut_off_the_end_are_missed(spent, last):
    """Cut off: an evaluation, the record that its result was kept, all but the first line, and all; no checksum is
    touched.
    """
    written = spent.read_bytes().splitlines(keepends=True)
    assert len(written) == 8
    spent.write_bytes(b"".join(written[:last]))
    refused(spent, rf"lines are missing from its end; expected at least 8 lines, as \S+\.head says; found {last}")


def test_a_ledger_that_was_deleted_is_missed(spent):
    spent.unlink()
    refused(spent, "is gone; expected at least 8 lines")


def test_a_head_that_was_deleted_is_missed(spent):
    head_of(spent).unlink()
    refused(spent, "its head file is gone")


EDITS = {
    "the budget": lambda all: all[0].update(budget=10**15),
    "the model": lambda all: all[0]["model"].update(num_hidden_layers=1),
    "a shape": lambda all: all[1]["event"].update(batch=1),
    "a kind": lambda all: all[1]["event"].update(kind="validation"),
    "a count": lambda all: all[2]["event"].update(count=1),
    "no count": lambda all: all[2]["event"].update(count=0),
    "a price": lambda all: all[4].update(flops=1),
    "a purpose": lambda all: all[6].update(purpose="e"),
    "a line left out": lambda all: all.pop(5),
    "a line too many": lambda all: all.insert(6, {"keep": "f", "run": "run", "phase": "evaluation"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_change_whose_hashes_were_computed_anew_is_noticed_by_the_head(spent, edit):
    before = spent.read_bytes()
    forge(spent, lambda all: (EDITS[edit](all), all)[1])
    assert spent.read_bytes() != before
    refused(spent, "the lines up to line 8 are not those that were written|lines are missing|damaged line")


def test_a_change_whose_own_hash_alone_was_computed_anew_is_noticed_by_the_next_line(spent):
    written = spent.read_bytes().splitlines(keepends=True)
    record = lines.read(spent)[1]
    record["event"]["batch"] = 1
    written[1] = lines.encode(record, json.loads(written[0])["sha256"])
    spent.write_bytes(b"".join(written))
    refused(spent, r"line 3: damaged line \(its hash does not follow from the line before")


def test_lines_of_the_older_kind_put_in_place_of_chained_ones_are_noticed(spent):
    records = lines.read(spent)
    spent.write_bytes(b"".join(map(lines.encode, records[:-2])))
    refused(spent, "lines are missing from its end")


def test_the_head_is_written_behind_its_line_and_never_before(path, monkeypatch):
    """At each flush of either file, and whatever of the last write to the head is lost, the head matches a line of the
    ledger.
    """
    seen, sync = [], os.fsync

    def fsync(handle: int) -> None:
        if head_of(path).exists():
            seen.append(verify(path) == [] and os.path.samestat(os.fstat(handle), head_of(path).stat()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with Ledger(path, terms(9)) as ledger:
        for step in range(3):
            ledger.commit(ledger.reserve(replace(STEP, step=step), "final"))
        ledger.keep("final", "x")
    assert seen.count(True) == 4  # one for each commit, one for what was kept: a reservation writes none
    head, slot = head_of(path).read_bytes(), chain.SLOT
    assert chain.read_heads([head_of(path)])[head_of(path)].lines == 8
    for torn in (bytes(slot), head[:slot][: slot // 2] + bytes(slot // 2), b"x" * slot):
        for content in (torn + head[slot:], head[:slot] + torn):
            head_of(path).write_bytes(content)
            assert verify(path) == []
            Ledger(path).close()  # brings the head up to date
            assert chain.read_heads([head_of(path)])[head_of(path)].lines == 8
    head_of(path).write_bytes(2 * torn)
    with pytest.raises(JaxlvError, match="a damaged head file"):
        verify(path)


@pytest.mark.parametrize("killed", ["before the head is made", "before a commit's head", "before a kept result's head"])
def test_a_process_that_dies_between_a_line_and_its_head_is_no_alarm(path, killed, monkeypatch):
    at = {"before the head is made": 1, "before a commit's head": 3, "before a kept result's head": 4}[killed]
    mark = chain.Chain.mark

    def die(self: chain.Chain, place: Path) -> None:
        if self.head.lines == at:
            raise KeyboardInterrupt
        mark(self, place)

    monkeypatch.setattr(chain.Chain, "mark", die)
    with pytest.raises(KeyboardInterrupt), Ledger(path, terms(9)) as ledger:
        ledger.commit(ledger.reserve(STEP, "evaluation", purpose="e"))
        ledger.keep("evaluation", "e")
    monkeypatch.undo()
    assert len(lines.read(path)) == at and verify(path) == []
    with Ledger(path, terms(9)) as ledger:
        assert chain.read_heads([head_of(path)])[head_of(path)].lines == at
        ledger.commit(ledger.reserve(STEP, "evaluation", purpose="e"))
    assert verify(path) == []


def test_a_head_from_an_earlier_time_is_found_though_no_line_is_missing(path):
    heads = []
    with Ledger(path, terms(9)) as ledger:
        for step in range(3):
            heads.append(head_of(path).read_bytes())
            ledger.commit(ledger.reserve(replace(STEP, step=step), "final"))
        ledger.reserve(replace(STEP, step=3), "final")
    assert verify(path) == []
    for head, line in zip(heads, (1, 3, 5), strict=True):
        head_of(path).write_bytes(head)
        assert verify(path) == [f"the head knows of line {line}, but one was written after line 7: it is an older copy"]


def test_a_ledger_is_read_while_it_grows_without_an_alarm(path, monkeypatch):
    """A head that was read before the lines is older than they are."""
    scan = lines.scan
    with Ledger(path, terms(9)) as ledger:

        def grown(*given: Any) -> lines.Content:
            for _ in range(2):
                ledger.commit(ledger.reserve(STEP, "final"))
            return scan(*given)

        monkeypatch.setattr(lines, "scan", grown)
        assert [verify(path), verify(path)] == [[], []] and len(ledger.entries) == 4


@pytest.mark.parametrize("added", [b"junk", bytes(100), b"  ", b"{", b"\r"])
def test_what_stands_behind_the_last_line_is_said(path, added):
    with Ledger(path, terms(9)) as ledger:
        ledger.commit(ledger.reserve(STEP, "final"))
    assert noted(read_book(path)) == []
    path.write_bytes(path.read_bytes() + added)
    assert verify(path) == []
    assert noted(read_book(path)) == [f"{len(added)} bytes after the last line are not a line: torn off, or added"]


def test_a_ledger_that_several_runs_share_leaves_its_head_with_each(path, tmp_path):
    """Any of the runs finds out if somebody removes the ledger and what lies beside it."""
    places = {name: head_of(tmp_path / name) for name in "ab"}
    with Ledger(path, terms(9), "a", head=places["a"]) as ledger:
        ledger.follow("b", places["b"])
        for name in ("a", "b"):
            ledger.commit(ledger.reserve(STEP, "final", name))
    heads = chain.read_heads(places.values())
    assert [heads[places[name]].lines for name in "ab"] == [3, 5]
    forge_all(path, lambda all: all[:3])
    assert verify(path) == []  # everything there was made to match
    with pytest.raises(JaxlvError, match="lines are missing from its end; expected at least 5 lines"):
        Ledger(path, terms(9), "b", head=places["b"])
    with Ledger(path, terms(9), "a", head=places["a"]) as ledger, pytest.raises(JaxlvError, match="expected at least 5"):
        ledger.follow("b", places["b"])
    for gone in (path, head_of(path)):
        gone.unlink()
    for name in "ab":
        with pytest.raises(JaxlvError, match="is gone; expected at least"):
            Ledger(path, terms(9), name, head=places[name])
        assert not path.exists()


def test_a_head_that_is_removed_while_a_process_writes_ends_it(path):
    with Ledger(path, terms(9)) as ledger:
        head_of(path).unlink()
        with pytest.raises(JaxlvError, match="was removed, renamed or replaced while a process wrote to it"):
            ledger.commit(ledger.reserve(STEP, "final"))


def test_a_budget_of_nothing_buys_nothing(path):
    with Ledger(path, terms(0)) as ledger:
        assert ledger.fitting([STEP], "final") == ledger.left("evaluation") == 0
        for phase in ("final", "evaluation"):
            with pytest.raises(BudgetExceeded, match="spent so far: 0 of 0, 0 train steps"):
                ledger.reserve(STEP, phase)
    assert verify(path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e400, -1, 10**31, 10**400, 1.5, True, "1", None])
def test_terms_that_are_no_number_of_flops_are_one_line(value):
    given = [{"budget": value}, {"budget": 9, "held_back": value}, {"budget": 9, "envelopes": {"a": value}}]
    for settings in given:
        with pytest.raises(
            JaxlvError, match=r"budget\.(flops|held_back|phases\.a): is not allowed; expected a whole"
        ) as caught:
            Terms(**{"convention": "exact", "model": MODEL, **settings})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_read_is_what_was_written(path):
    """Events of many shapes and places in turn, and commits of less than was reserved."""
    more = [replace(DRAW, samples=n, step=n % 2) for n in (1, 2, 3)] + [replace(STEP, step=n, count=n + 1) for n in range(3)]
    with Ledger(path, Terms(10**12, "exact", MODEL)) as ledger:
        for event in more * 2:
            less = replace(event, new_tokens=event.new_tokens // 2, count=max(1, event.count // 2))
            ledger.commit(ledger.reserve(event, "final"), less)
        written = [(one.reserved, one.event, one.asked, one.flops) for one in ledger.entries]
    assert [(one.reserved, one.event, one.asked, one.flops) for one in read(path)[1]] == written
    assert {one.shape for one in more} == {one.shape for one, *_ in written} and len({one.shape for one in more}) == 4
    assert verify(path) == []


@pytest.mark.parametrize(
    "wrong",
    [{"step": -1}, {"step": "0"}, {"step": True}, {"step": 1.0}, {"step": None}, {"count": -1}, {"count": 10**7},
     {"count": 1.0}, {"batch": 0}, {"length": 0}, {"samples": 0}, {"accumulate": 0}, {"rank": -1}, {"batch": True},
     {"x": 1}],
    ids=str,
)  # fmt: skip
def test_an_event_that_cannot_be_is_damage(path, wrong):
    with Ledger(path, terms(9)) as ledger:
        ledger.reserve(STEP, "final")
        ledger.reserve(STEP, "final")
    forge_all(path, lambda all: all[2]["event"].update(wrong))
    with pytest.raises(JaxlvError, match="line 3: damaged line"):
        read(path)


def test_other_work_than_reserved_is_not_committed(path):
    with Ledger(path, terms(9)) as ledger:
        entry = ledger.reserve(replace(STEP, count=2), "final")
        for other in (
            replace(STEP, batch=1),
            replace(STEP, kind="validation"),
            replace(STEP, step=1),
            replace(STEP, rank=1),
        ):
            with pytest.raises(JaxlvError, match="or other work"):
                ledger.commit(entry, other)
        with pytest.raises(JaxlvError, match="a reservation of no work"):
            ledger.reserve(replace(STEP, count=0), "final")
        ledger.commit(entry, STEP)
    forge_all(path, lambda all: all[1]["event"].update(count=0))
    with pytest.raises(JaxlvError, match=r"line 2: damaged line .*a reservation of no work"):
        read(path)


def test_processes_that_share_a_ledger_spend_what_the_others_have_left(path):
    """Each has it open for an operation at a time, and reads first what was written meanwhile."""
    first, second = (SharedLedger(path, terms(3), run) for run in ("first", "second"))
    begun = first.reserve(STEP, "final")
    two = second.reserve(Event(**{**vars(STEP), "count": 2}), "final")
    with pytest.raises(BudgetExceeded):
        first.reserve(STEP, "final")
    second.commit(two, replace(two.event, count=1))
    first.commit(begun)
    assert first.fitting([Event(**{**vars(STEP), "count": 5})], "final") == 1
    third = first.reserve(STEP, "final")
    first.commit(third)
    assert second.fitting([Event(**{**vars(STEP), "count": 5})], "final") == 0
    assert not verify(path) and [entry.flops for entry in read(path)[1]] == [ONE] * 3
    with first.turn(), pytest.raises(JaxlvError, match="another process writes"):
        Ledger(path)


def test_what_a_budget_was_spent_on_by_hand(path):
    """Two runs, of which one repeats a step; shares are of the budget under its own convention, whichever are asked for."""
    for attempt in range(2):
        with Ledger(path, terms(10), "one") as ledger:
            ledger.commit(ledger.reserve(replace(STEP, step=attempt and 2, count=3 - attempt), "grid"))
            if not attempt:
                ledger.commit(ledger.reserve(replace(STEP, kind="validation", batch=1), "grid"))
                ledger.commit(ledger.reserve(replace(STEP, count=2), "final", "two"))
    found = spending(path, ["coursework"])
    sheet, check = (replace(STEP, **how).flops(MODEL, "coursework") for how in ({}, {"kind": "validation", "batch": 1}))
    exact = replace(STEP, kind="validation", batch=1).flops(MODEL, "exact")
    rows = [(row.run, row.phase, row.work, row.count, dict(row.flops), row.share, row.repeated) for row in found.rows]
    assert rows == [
        ("one", "grid", "train_step", 5, {"exact": 5 * ONE, "coursework": 5 * sheet}, 5 * ONE / int(10 * ONE), ONE),
        ("one", "grid", "validation", 1, {"exact": exact, "coursework": check}, exact / int(10 * ONE), 0),
        ("two", "final", "train_step", 2, {"exact": 2 * ONE, "coursework": 2 * sheet}, 0.2, 0),
    ]
    assert found.flops == {"exact": 7 * ONE + exact, "coursework": 7 * sheet + check} and found.totals.repeated == ONE
    assert found.share == pytest.approx(0.7 + exact / (10 * ONE)) and not any(found.padding.values())


def test_what_others_have_written_is_read_before_anything_is_told(path):
    """Without anything that this one writes itself in between."""
    first, second = (SharedLedger(path, terms(5), run) for run in ("first", "second"))
    one = first.reserve(STEP, "final")
    second.commit(second.reserve(replace(STEP, count=3), "final"))
    assert first.fitting([replace(STEP, count=5)], "final") == 1
    first.commit(one)
    assert first.totals().uncertain == 0 and first.totals().executed == 4 * ONE
    assert [entry.committed for entry in first.entries] == [True, True]
    first.keep("final", "curve")
    assert first.book.kept["first", "final", "curve"] == 1 and first.totals().executed == 4 * ONE
    with second.turn():
        assert second.totals().executed == 4 * ONE and second.book.kept["first", "final", "curve"] == 1
    assert not verify(path)


def test_whether_work_fits_is_what_process_0_says(path, monkeypatch):
    """Another process, whose own ledger may be at another line, does as the first does."""
    with Ledger(path, terms(1)) as ledger:
        monkeypatch.setattr("jaxlv.processes.agreed", lambda value: False)
        with pytest.raises(BudgetExceeded):
            ledger.reserve(STEP, "final")
        monkeypatch.setattr("jaxlv.processes.agreed", lambda value: True)
        assert ledger.reserve(replace(STEP, count=2), "final").flops == 2 * ONE
