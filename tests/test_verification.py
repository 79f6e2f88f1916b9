"""`jaxlv ledger verify` of run folders: what somebody might change in a ledger, with every hash computed anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_budget import FREE, PLENTY, budgeted, change
from test_run import config, train  # noqa: F401 - `config` is a fixture

from jaxlv.config import RunConfig, build_config, load_config, to_toml
from jaxlv.errors import JaxlvError
from jaxlv.flops import ledger, targets
from jaxlv.flops.ledger import Event, Ledger, Terms
from jaxlv.runs import billing, run, sources, sweep, verification
from jaxlv.runs.member import Job
from jaxlv.runs.training import train_together
from jaxlv.storage import door, lines
from jaxlv.storage.chain import head_of
from jaxlv.storage.files import seal
from jaxlv.studies import prices
from jaxlv.tools import cli
from tests.forged import Records, forge_all

SHARED = f"../../{run.LEDGER}"


@pytest.fixture(scope="module")
def paid(config, tmp_path_factory) -> Path:  # noqa: F811
    """A run under a budget, and an evaluation."""
    folder = tmp_path_factory.mktemp("paid") / "run"
    train(budgeted(config, PLENTY, held_back=PLENTY / 2, phases={"final": PLENTY / 2}), folder)
    cli.main(["evaluate", str(folder), "--samples", "2", "--unmasked-samples", "0", "--out", str(folder.parent / "e")])
    return folder


@pytest.fixture
def copy(paid, tmp_path) -> Path:
    return Path(shutil.copytree(paid, tmp_path / "copy"))


@pytest.fixture(scope="module")
def shared(config, tmp_path_factory) -> Path:  # noqa: F811
    """A folder of two runs that train together on one ledger."""
    out = tmp_path_factory.mktemp("shared") / "out"
    one = change(budgeted(config, PLENTY, ledger=SHARED), train=FREE | {"steps": 4, "checkpoint_every": 4})
    configs = {"a": one, "b": change(one, lora={"rank": 2})}
    inputs = sources.load_inputs_of(list(configs.values()))
    train_together(
        [Job(own, out / sweep.RUNS / name, read) for (name, own), read in zip(configs.items(), inputs, strict=True)]
    )
    return out


@pytest.fixture
def several(shared, tmp_path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "out"))


def told(capsys: pytest.CaptureFixture[str], place: Path) -> str:
    """Returns what `ledger verify` prints; "" if it finds nothing."""
    try:
        cli.main(["ledger", "verify", str(place), "--json"])
    except SystemExit as stop:
        assert stop.code == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == (said.err != "")
    found = json.loads(said.out) if said.out else {"problems": [], "notes": []}
    assert bool(said.err) or (found["ok"] and not found["problems"])
    return "\n".join([*found["problems"], *found["notes"], said.err])


def of_kind(records: Records, kind: str, phase: str = "final") -> list[dict[str, Any]]:
    """The reservations and commits of a kind of work."""
    reserved = [one for one in records if "reserve" in one and one["event"]["kind"] == kind and one["phase"] == phase]
    numbers = {one["reserve"] for one in reserved}
    return reserved + [one for one in records if one.get("commit") in numbers]


def repriced(records: Records) -> None:
    """Make every price that of its shape."""
    given = build_config(Terms, {key: value for key, value in records[0].items() if key != "ledger"})
    for one in records[1:]:
        if "event" in one:
            one["flops"] = Event.from_tree(one["event"]).flops(given.model, given.convention)


def shapes(work: str, phase: str = "final", **values: Any) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        for one in of_kind(records, work, phase):
            one["event"].update(values)
        repriced(records)

    return edit


def terms(**values: Any) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        records[0].update(values)
        repriced(records)

    return edit


def one_of(work: str, at: int, **values: Any) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        found = of_kind(records, work)
        for one in (found[at], found[len(found) // 2 + at]):
            one["event"].update(values)
        repriced(records)

    return edit


def smaller(records: Records) -> None:
    records[0]["model"]["intermediate_size"] = 8
    repriced(records)


def everywhere(key: str, value: str) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        for one in (one for one in records if key in one):
            one[key] = value

    return edit


def another_phase(records: Records) -> None:
    for one in of_kind(records, "train_step"):
        if "phase" in one:
            one["phase"] = "evaluation"


def unspent(records: Records) -> None:
    """Forges a ledger in which none of the reserved steps was done."""
    for one in of_kind(records, "train_step"):
        if "commit" in one:
            one["event"]["count"] = 0
    repriced(records)


def moved(works: tuple[str, ...], phase: str, to: str) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        for one in (one for work in works for one in of_kind(records, work, phase) if "phase" in one):
            one["phase"] = to

    return edit


def without_evaluation(records: Records) -> Records:
    return records[: next(n for n, one in enumerate(records) if one.get("phase") == "evaluation")]


def without_last_steps(records: Records) -> Records:
    last = max(n for n, one in enumerate(records) if "reserve" in one and one["event"]["kind"] == "train_step")
    return records[:last]


ALL_FORGED = {
    "the budget": (terms(budget=2 * PLENTY), "budget of the ledger: 2000000000000, config.toml has 1000000000000"),
    "the convention": (terms(convention="hf"), "convention of the ledger: hf, config.toml has exact"),
    "what is held back": (terms(held_back=0), "held_back of the ledger: 0, config.toml has 500000000000"),
    "the envelopes": (terms(envelopes={}), "envelopes of the ledger: {}, config.toml has {'final': 500000000000}"),
    "the repeats": (terms(repeats="beyond"), "repeats of the ledger: beyond, config.toml has within"),
    "the model": (smaller, "intermediate_size of the ledger's model: 8, the manifest has "),
    "the phases": (another_phase, "entry 0: a train step in the phase 'evaluation', config.toml has 'final'"),
    "another phase": (everywhere("phase", "x"), "entry 0: a train step in the phase 'x'"),
    "an evaluation's phase": (
        moved(("generation", "validation"), "evaluation", "final"),
        "a generation in the phase 'final' for a result that is paid in 'evaluation'",
    ),
    "validations' phase": (moved(("validation",), "final", "evaluation"), "step 2, the ledger no validation there"),
    "another run": (everywhere("run", "x"), "and has a run 'x'"),
    "batches": (shapes("train_step", batch=1), "entry 0: not a train step of this run: batch 1, not 2"),
    "lengths": (shapes("train_step", length=16), "not a train step of this run: length 16, not 64"),
    "ranks": (shapes("train_step", rank=1), "not a train step of this run: rank 1, not 4"),
    "targets": (shapes("train_step", targets=["q_proj"]), "not a train step of this run: targets ('q_proj',), not ("),
    "kinds": (shapes("train_step", kind="validation"), "the ledger ends at step 0"),
    "counts": (unspent, "metrics.jsonl has step 5, the ledger ends at step 0"),
    "one count": (one_of("train_step", 1, step=0), "the ledger lacks steps 2 to 2"),
    "one validation's count": (one_of("validation", 0, count=1), "validations that are not alike: those of steps 2, 4"),
    "one validation's kind": (one_of("validation", 0, kind="generation"), "of step 2, the ledger no validation there"),
    "validations' lengths": (shapes("validation", length=8), "not a validation of this run: length 8, not 64"),
    "validations' counts": (shapes("validation", count=9), "a validation of 18 windows, config.toml has"),
    "forecasts' ranks": (shapes("generation", rank=0, targets=[]), "not a generation of this run: rank 0, not 4"),
    "forecasts' samples": (shapes("generation", samples=2), "not a generation of this run: samples 2, not 1"),
    "the kernel of an evaluation": (shapes("generation", "evaluation", kernel="cudnn"), "kernel 'cudnn', not 'xla'"),
    "the last steps": (without_last_steps, "metrics.jsonl has step 5, the ledger ends at step 4"),
}  # fmt: skip


def guessed(records: Records) -> None:
    """The forecasts of one validation as a device draws them on which guesses pay for one row, too."""
    found = of_kind(records, "generation", "final")
    assert len(found) == 2 * 3 and "ahead" not in found[0]["event"]
    for one in (found[0], found[len(found) // 2]):
        event = one["event"]
        event["ahead"], event["slots"] = 1, 2 * event["slots"] - event["length"]
    repriced(records)


def test_a_run_may_go_on_where_other_numbers_of_rows_are_guessed_for(copy, capsys):
    forge_all(copy / run.LEDGER, guessed)
    assert told(capsys, copy) == ""


@pytest.mark.parametrize("change_", ALL_FORGED)
def test_a_ledger_and_a_head_that_were_both_made_anew_are_held_against_the_run(copy, change_, capsys):
    edit, words = ALL_FORGED[change_]
    assert told(capsys, copy) == ""
    forge_all(copy / run.LEDGER, edit)
    assert words in told(capsys, copy)


def test_a_forged_evaluation_is_what_the_chain_cannot_tell(copy, capsys):
    """SECURITY.md says so: who can write the head, too, can leave out what no other file of the run tells of."""
    forge_all(copy / run.LEDGER, without_evaluation)
    assert told(capsys, copy) == ""


def test_a_head_that_was_left_as_it_was_tells_of_all_of_it(copy, capsys):
    path = copy / run.LEDGER
    records = without_evaluation(lines.read(path))
    written = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(written[: len(records)]))
    assert "lines are missing from its end" in told(capsys, copy)


# ------------------------------------------------------------------------------------------ a ledger that is gone


def everything(folder: Path) -> dict[str, Callable[[], object]]:
    """Returns everything that touches the ledger of a run, from the programs and from the library."""
    settings = run.read_config(folder)
    model = sources.load_base(settings)[1]
    return {
        "verify": lambda: verification.verify(folder),
        "load": lambda: run.load_run(folder),
        "ledger": lambda: billing.ledger_of(settings, folder, model),
        "bill": lambda: sweep.spent_by(settings, folder),
        "resume": lambda: train(settings, folder, resume=True),
        "audit": lambda: prices.subjects_of_runs(prices.configs_of([folder], ()), targets.cpu()),
        "sweep": lambda: sweep.train([sweep.Cell(folder.name, {}, settings)], folder.parent, resume=True),
    }


@pytest.mark.parametrize("gone", ["removed", "emptied", "removed with its head", "emptied with its head"])
def test_a_ledger_that_is_gone_is_an_error_everywhere(copy, gone):
    path = copy / run.LEDGER
    acts = everything(copy)
    if "head" in gone:
        head_of(path).unlink()
    path.write_bytes(b"") if "emptied" in gone else path.unlink()
    before = {one: one.read_bytes() for one in copy.rglob("*") if one.is_file()}
    for act in acts.values():
        with pytest.raises(JaxlvError, match=r"the ledger is (gone|empty)"):
            act()
        assert {one: one.read_bytes() for one in copy.rglob("*") if one.is_file()} == before


def test_a_ledger_whose_budget_was_taken_out_of_the_config_is_an_error_everywhere(copy):
    """Sealed anew, so that nothing else is wrong: what the run still does would be free."""
    text = (copy / run.CONFIG).read_text()
    (copy / run.CONFIG).write_text(text[: text.index("[budget]")])
    seal(copy, [run.CONFIG, run.MANIFEST, run.SPLIT])
    acts = everything(copy)
    for act in (acts[name] for name in acts if name not in ("resume", "sweep")):
        with pytest.raises(JaxlvError, match="the ledger of a run that has no budget"):
            act()
    (copy / run.LEDGER).unlink()
    with pytest.raises(JaxlvError, match=r"ledger\.jsonl\.head: the ledger of a run that has no budget"):
        run.load_run(copy)


def test_a_ledger_is_read_once(copy, monkeypatch):
    read, opened = [], door.opened
    monkeypatch.setattr(door, "opened", lambda path, *more: read.append(Path(path)) or opened(path, *more))
    verification.verify(copy)
    assert read.count(copy / run.LEDGER) == 1


def test_a_shared_ledger_that_is_gone_is_an_error_for_each_run(several, capsys):
    for gone in (several / run.LEDGER, head_of(several / run.LEDGER)):
        gone.unlink()
        for name in ("a", "b"):
            for act in everything(several / sweep.RUNS / name).values():
                with pytest.raises(JaxlvError, match=r"the ledger is gone; expected what \S+\.head tells of"):
                    act()
        assert not (several / run.LEDGER).exists()
    for name in ("a", "b"):  # without any head, as runs of older versions
        head_of(several / sweep.RUNS / name / run.LEDGER).unlink()
        with pytest.raises(JaxlvError, match=r"the ledger is gone; expected what \S+metrics\.jsonl tells of"):
            run.load_run(several / sweep.RUNS / name)


def test_a_new_run_does_not_begin_anew_the_ledger_that_others_had(several):
    """Each trace of the ledger in turn, down to what the other runs have logged, is enough to refuse it."""
    (several / run.LEDGER).unlink()
    one, new = run.read_config(several / sweep.RUNS / "a"), several / sweep.RUNS / "new"
    traces = [head_of(several / run.LEDGER)]
    for kind in (head_of(Path(run.LEDGER)).name, run.METRICS):
        traces += [several / sweep.RUNS / name / kind for name in ("a", "b")]
    for trace in traces:
        with pytest.raises(JaxlvError, match="the ledger is gone; expected what "):
            train(one, new)
        assert not new.exists() and not (several / run.LEDGER).exists()
        trace.unlink()
    train(one, new)
    assert (several / run.LEDGER).is_file()


def test_lines_cut_off_a_shared_ledger_are_missed_by_a_run_though_what_lies_beside_was_made_to_fit(several, capsys):
    forge_all(several / run.LEDGER, lambda all: all[:-1])
    assert ledger.verify(several / run.LEDGER) == []
    whole = "lines are missing from its end"
    assert sorted(whole in told(capsys, several / sweep.RUNS / name) for name in ("a", "b")) == [False, True]
    for place in (several, several / run.LEDGER):  # every run beside it is asked
        assert whole in told(capsys, place)


# --------------------------------------------------------------------------------------------- renamed, and older


def test_a_run_that_was_renamed_is_known_and_goes_on_under_its_first_name(several, capsys):
    place = (several / sweep.RUNS / "a").rename(several / sweep.RUNS / "new")
    for one in (place, several):
        assert told(capsys, one) == ""
    settings = run.read_config(place)
    _, entries = sweep.entries_of(settings, place) or (None, [])
    assert sum(entry.event.count for entry in entries if entry.event.kind == "train_step") == settings.train.steps
    with billing.ledger_of(settings, place, sources.load_base(settings)[1]) as book:
        assert book is not None and book.reserve(Event("validation", 1, 8), "evaluation").run == "a"


def test_a_run_that_was_renamed_to_hide_what_it_did_is_found(several, capsys):
    for one in [several / run.LEDGER, *(several / sweep.RUNS).glob("*/*.head")]:
        if one.suffix == ".head":
            one.unlink()
    forge_all(several / run.LEDGER, lambda all: [one.update(run="c") for one in all if one.get("run") == "a"] and None)
    assert "metrics.jsonl has step 4, the ledger ends at step 0" in told(capsys, several / sweep.RUNS / "a")


def as_before(folder: Path) -> None:
    """Make a run folder what versions before heads and chains left: without either, and without its name and model."""
    made_of = json.loads((folder / run.MANIFEST).read_text())
    for key in ("run", "model"):
        made_of.pop(key)
    (folder / run.MANIFEST).write_text(json.dumps(made_of))
    seal(folder, [run.CONFIG, run.MANIFEST, run.SPLIT])
    head_of(folder / run.LEDGER).unlink()


def unchained(path: Path) -> None:
    records = lines.read(path)
    records[0]["ledger"] = 3
    path.write_bytes(b"".join(map(lines.encode, records)))
    head_of(path).unlink(missing_ok=True)


def test_a_run_of_an_older_version_is_read_and_what_it_lacks_is_said(copy, capsys):
    as_before(copy)
    unchained(copy / run.LEDGER)
    said = told(capsys, copy)
    assert "were written before lines were chained: a line changed with its checksum is not detected" in said
    assert "the model's sizes are not compared: the manifest is of an older version" in said
    cli.main(["evaluate", str(copy), "--samples", "2", "--unmasked-samples", "0", "--out", str(copy.parent / "e")])
    capsys.readouterr()
    assert "before the head knew of line" in told(capsys, copy)
    cli.main(["ledger", "show", str(copy)])
    assert "note: lines 1 to " in capsys.readouterr().out


def test_a_run_of_this_version_with_an_unchained_ledger_is_found(copy, capsys):
    unchained(copy / run.LEDGER)
    assert "its lines are not chained, as those of this run were from the first" in told(capsys, copy)


def test_an_older_run_that_shares_a_ledger_and_was_renamed_is_no_alarm(several, capsys):
    unchained(several / run.LEDGER)
    for name in ("a", "b"):
        as_before(several / sweep.RUNS / name)
    (several / sweep.RUNS / "a").rename(several / sweep.RUNS / "new")
    assert "nothing in the ledger is of a run named new" in told(capsys, several / sweep.RUNS / "new")
    assert "named" not in told(capsys, several / sweep.RUNS / "b")


def test_an_older_run_without_a_budget_has_none(config, tmp_path):  # noqa: F811
    """It was written as a budget of 0 FLOPs."""
    text = to_toml(change(config, budget={"flops": 0.0}))
    assert "flops = 0.0" in text and "[budget]" not in to_toml(config)
    (tmp_path / run.CONFIG).write_text(text)
    assert load_config(tmp_path / run.CONFIG).budget.flops == 0
    assert run.read_config(tmp_path) == config


# --------------------------------------------------------------------------------------------------- budgets


BUDGETS = {
    "flops = nan": "must be a number from 0 to 1e+30 (FLOPs that may be spent; with 0, nothing runs); found nan",
    "flops = inf": "budget.flops: must be a number",
    "flops = -1": "budget.flops: must be a number",
    "flops = 1e400": "budget.flops: must be a number",
    "flops = 1e31": "budget.flops: must be a number",
    "flops = true": "budget.flops: must be a number",
    f"flops = {10**400}": "budget.flops: must be a number",
    "held_back = 1.0": "the key budget.flops is missing",
    "": "the key budget.flops is missing",
    "flops = 1e12\nheld_back = nan": "budget.held_back: must be a number",
    "flops = 1e12\nheld_back = 1e400": "budget.held_back: must be a number",
    "flops = 1e12\nheld_back = 1e13": "budget.held_back: must be within the budget",
    "flops = 1e12\nphases = { a = inf }": "budget.phases.a: must be a number",
    "flops = 1e12\nphases = { a = -1 }": "budget.phases.a: must be a number",
    "flops = 1e12\nphases = { a = 1e12, b = 1e12 }": "budget.phases: the phases together exceed the budget",
    'flops = 1e12\nconvention = "x"': "unknown convention",
    "flops = 0": "the budget does not buy one train step; expected at least",
    "flops = 1e-9": "the budget does not buy one train step; expected at least",
}


@pytest.mark.parametrize("lines_", BUDGETS, ids=lambda text: text[:40])
def test_a_budget_that_cannot_be_is_one_line_before_anything_is_made(config, tmp_path, lines_, capsys):  # noqa: F811
    (tmp_path / "c.toml").write_text(f"{to_toml(config)}\n[budget]\n{lines_}\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and BUDGETS[lines_] in said[0] and "float32" not in said[0]
    assert not (tmp_path / "out").exists()


def test_a_config_without_a_budget_has_no_ledger(config: RunConfig, tmp_path):  # noqa: F811
    assert config.budget.flops is None and replace(config.budget, flops=0.0) != config.budget
    train(change(config, train=FREE | {"steps": 1}), tmp_path / "r")
    assert not list((tmp_path / "r").glob("ledger*"))
    with pytest.raises(JaxlvError, match="the run has no budget, and so no ledger"):
        verification.verify(tmp_path / "r")
    with Ledger(tmp_path / "ledger.jsonl", Terms(1, "exact", sources.load_base(config)[1].config)):
        pass
    assert verification.verify(tmp_path / "ledger.jsonl").problems == []
