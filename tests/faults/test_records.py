"""JSON of run folders that somebody else made, sealed anew: what is not as it was written is one line, for every reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxlv.errors import JaxlvError
from jaxlv.runs import run
from jaxlv.runs.records import MetricsLog, read_manifest, read_metrics, read_split
from jaxlv.storage import lines, shape
from jaxlv.storage.files import SEAL, as_written, seal
from jaxlv.studies import compare, papers
from tests.programs import PROTOCOL, jaxlv

STRANGE: list[Any] = [None, True, -1, 10**400, "x", "\ud800", [], {}, [1], {"a": {}}]
MANIFEST = {"data": {"sha256": "d"}, "base": {"sha256": "b"}, "dataset_alpha": None, "versions": {"jax": "1"}, "run": "r"}


def places(tree: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all values below the top."""
    inner = [one for key, value in tree.items() for one in places(value, (*at, key))] if isinstance(tree, dict) else []
    return ([at] if at else []) + inner


def changed(tree: dict[str, Any], at: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of a tree with another value in one place."""
    copy = json.loads(json.dumps(tree))
    node = copy
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = value
    return copy


def use_manifest(folder: Path) -> None:
    """Uses the manifest as `--resume` and the readers of a ledger do."""
    made_of = read_manifest(folder)
    for part in ("data", "base"):
        assert getattr(made_of, part).sha256[:12] is not None
    assert made_of.dataset_alpha is None or 0 * made_of.dataset_alpha == 0
    assert all(value.upper() is not None for value in made_of.versions.values())
    assert (made_of.run or "").upper() is not None


def use_split(folder: Path) -> None:
    assert all(mark.upper() is not None for marks in read_split(folder).values() for mark in marks.values())


@pytest.mark.parametrize(
    ("name", "tree", "use"),
    [
        ("manifest.json", MANIFEST, use_manifest),
        ("split.json", {"train": {"1": "a"}, "validation": {"2": "b"}, "test": {"3": "c"}}, use_split),
    ],
)
def test_a_record_of_a_run_is_of_its_types_or_one_line(
    name: str, tree: dict[str, Any], use: Callable[[Path], None], tmp_path
):
    (tmp_path / name).write_text(json.dumps(tree))
    use(tmp_path)
    refused = 0
    for at in places(tree):
        for value in STRANGE:
            (tmp_path / name).write_text(json.dumps(changed(tree, at, value)))
            try:
                use(tmp_path)
            except JaxlvError as fault:
                refused += 1
                assert f"no readable {name}" in str(fault) and ".".join(at) in str(fault)
    assert refused > 5 * len(places(tree))


@pytest.mark.parametrize("record", [{"step": "1"}, {"step": True}, {"step": 2**63}, {"loss": 1.0}, {"step": 1, "loss": [1]}])
def test_a_line_of_a_log_that_holds_no_numbers_is_named(record, tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.add({"step": 1, "loss": float("nan")})
    log.close()
    assert read_metrics(log.path) == [{"step": 1, "loss": pytest.approx(float("nan"), nan_ok=True)}]
    log.path.write_bytes(log.path.read_bytes() + lines.encode(record))
    with pytest.raises(JaxlvError, match=r"metrics.jsonl, line 2: (step|loss) is not what was written"):
        read_metrics(log.path)


def test_a_shape_tells_what_is_wrong_by_its_place():
    of: shape.Shape = {"a": {"b?": (float, None), str: int}, "c": (str, {"d": bool})}
    for right in ({"a": {}, "c": "x"}, {"a": {"b": 1, "e": 2}, "c": {"d": True}}, {"a": {"b": None}, "c": "", "more": 1}):
        assert shape.check(right, of, "x.json") == right
    for wrong, told in (
        ([], "its content is not what was written; expected an object; found []"),
        ({"a": {}}, "c is not what was written; expected a value; found nothing"),
        ({"a": {"b": True}, "c": ""}, "a.b is not what was written; expected a number or null; found True"),
        ({"a": {"e": 1.0}, "c": ""}, "a.e is not what was written; expected a whole number; found 1.0"),
        (
            {"a": {"b": 10**5000}, "c": ""},
            "a.b is not what was written; expected a number or null; found int that is too long to be shown",
        ),
        ({"a": {}, "c": {"d": 1}}, "c.d is not what was written; expected true or false; found 1"),
        ({"a": {}, "c": 1}, "c is not what was written; expected a text or an object; found 1"),
    ):
        with pytest.raises(JaxlvError) as caught:
            shape.check(wrong, of, "x.json")
        assert str(caught.value) == f"x.json: {told}"


def test_a_run_of_somebody_else_is_refused_before_anything_is_computed(work, tmp_path):
    folder = Path(shutil.copytree(work.run, tmp_path / "run"))
    names = [line[66:] for line in (folder / SEAL).read_text().splitlines()]
    made_of = json.loads((folder / run.MANIFEST).read_text())
    for change, told in ((("dataset_alpha",), "x"), (("data", "sha256"), 5), (("model",), [1])):
        (folder / run.MANIFEST).write_text(json.dumps(changed(made_of, change, told)))
        seal(folder, names)
        for arguments in (
            ["forecast", folder, "--series", "3", *PROTOCOL, "--out", tmp_path / "out"],
            ["train", work.config, "--set", "train.steps=2", "--set", "lora.rank=2", "--out", folder, "--resume"],
        ):
            said = jaxlv(*arguments)
            assert said.code == 2 and said.err.count("\n") == 1 and ".".join(change) in said.err, said.err
    assert not (tmp_path / "out").exists()


def test_a_base_that_says_what_it_cost_is_read_as_its_other_files_are(tmp_path):
    record = {"parameters": 1, "tokens": 2, "flops": {"coursework": 10**25}, "curve": []}
    (tmp_path / "training.json").write_text(json.dumps(record))
    cost = compare.base_cost(str(tmp_path))
    assert cost and cost.tree() == {"parameters": 1, "tokens": 2, "flops": {"coursework": 10**25}}
    for wrong in ({"flops": "x"}, {"tokens": None}, {"flops": {}}, {"parameters": True}):
        (tmp_path / "training.json").write_text(json.dumps(record | wrong))
        with pytest.raises(JaxlvError, match=rf"training.json: {next(iter(wrong))}(\.coursework)? is not what was written"):
            compare.base_cost(str(tmp_path))
    (tmp_path / "training.json").rename(tmp_path.parent / "outside.json")
    (tmp_path / "training.json").symlink_to(tmp_path.parent / "outside.json")
    with pytest.raises(JaxlvError, match=r"training.json is a link to outside the folder"):
        compare.base_cost(str(tmp_path))


def test_what_a_reproduction_left_is_looked_at_before_it_goes_on(tmp_path):
    kept = {"name": "grid", "best": "a", "runs": [], "carried": {}, "chosen": {}}
    for wrong in ([], {**kept, "chosen": [1]}, {**kept, "runs": None}):
        work = papers.Reproduction(None, "small", "embedded", [], [], tmp_path)  # type: ignore[arg-type]
        (tmp_path / papers.STAGE_FILES).mkdir(exist_ok=True)
        work.keep("grid", wrong)
        with pytest.raises(JaxlvError, match=r"grid.json: .* is not what was written"):
            work.ended("grid")
    work.keep("grid", kept)
    ended = work.ended("grid")
    assert ended and kept.items() <= ended.tree().items() and work.ended("final") is None


@pytest.mark.parametrize("wrong", [{}, [], None, 1, "x"])
def test_trees_that_were_not_written_so_are_one_line(wrong):
    told = r"RUN: does not read; found .*; x\.json may be damaged"
    with pytest.raises(JaxlvError, match=told), as_written("does not read", "RUN", "x.json"):
        wrong["x"]["y"]
