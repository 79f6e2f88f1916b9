"""`jaxlv probe`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from jaxlv.config import EvaluateConfig
from jaxlv.errors import JaxlvError
from jaxlv.storage.files import check_free, write_json
from jaxlv.tools.bounds import given, whole
from jaxlv.tools.console import CALL, Progress, Result, made, say, verb
from jaxlv.tools.options import Drawn, Names, Settings, idle, setting

TASKS = "tasks of lm-evaluation-harness that are measured, too; needs jaxlv[harness]"


def probe(
    run_or_model: str,
    /,
    *,
    prompts: Path | None = None,
    max_new_tokens: Annotated[int, whole()] = 128,
    generation_defaults: bool = False,
    seed: Annotated[int, setting(EvaluateConfig, "seed")] = 0,
    text: Path | None = None,
    window: Annotated[int, whole(2)] = 512,
    stride: Annotated[int | None, whole()] = None,
    batch: Annotated[int, whole()] = 8,
    tasks: Annotated[Names, Parameter(help=TASKS)] = None,
    task_folder: Path | None = None,
    limit: Annotated[int | None, whole()] = None,
    set: Settings = (),
    out: Path | None = None,
    overwrite: bool = False,
    sampling: Drawn | None = None,
) -> Result:
    """Ask a run, before and after tuning, or a bare model what has nothing to do with forecasts; measure a text's cost.

        jaxlv probe RUN --out DIR
        jaxlv probe MODEL --prompts questions.jsonl --text essay.txt --temperature 0.7 --seed 1
        jaxlv probe RUN --tasks hellaswag,arc_easy --limit 100 --out DIR

    A run gives tuned and untuned answers side by side; MODEL is a Hugging Face folder or a hub id. The base needs a language
    tokenizer with a chat template: Qwen2.5 has one, the embedded base does not. Five prompts are built in; a file has one a
    line or, as .jsonl, {"prompt": ..., "expected": ...} a line. What is expected is a text that the answer must contain, or
    a regular expression between slashes. Answers are greedy, without a repetition penalty, unless options say otherwise.

    --text adds the perplexity of a file. DIR gets probe.json, probe.csv and report.html; without --out the answers are only
    shown. If the run has a budget, it pays for everything. --set takes sampling.*, and of a bare model model.dtype,
    model.weights and model.attention.

    Args:
        run_or_model: run folder, model folder, or hub id
        prompts: file of prompts; the five of the report of Mao if not given
        max_new_tokens: most tokens of an answer
        generation_defaults: sample as the model's own generation_config.json says
        seed: seed of sampled answers
        text: text file (UTF-8) whose perplexity is measured
        window: tokens of a window of the text
        stride: tokens from window to window; half a window if not given
        batch: prompts, or windows, computed together
        task_folder: folder with further task files of the harness
        limit: the first examples of each task alone
        out: folder for probe.json, probe.csv and report.html
        overwrite: replace an older folder of this verb, once the new one is complete
    """
    from jaxlv.report import probe as report
    from jaxlv.studies import probe as study

    if text is None:
        idle("no --text is named", window=window != 512, stride=stride)
    _check_tasks(tasks, task_folder=task_folder, limit=limit)
    how = (max_new_tokens, given(sampling), generation_defaults, set, seed)
    asked = study.Questions(run_or_model, prompts, *how, text, window, stride or 0, batch)
    if out:
        check_free(out, overwrite, study.RESULT)
    measured = _measured(run_or_model, tasks, task_folder, limit) if tasks else None  # before anything is written
    result = study.probe(asked, out, purpose=CALL.purpose, begin=Progress, say=say, overwrite=overwrite)
    lines, tree = [f"\n{report.format_answers(result)}\n\n{report.summary(result)}"], {"result": result.tree()}
    if measured:
        lines.append(f"\n{measured.table}")
        tree["tasks"] = measured.scores
    if not out:
        return Result("\n".join(lines), tree)
    if measured:
        write_json(out / "tasks.json", measured.scores)
    files = {"answers": study.RESULT, "table": study.TABLE, "report": study.REPORT}
    return made(out, lines, tree, **files, **({"tasks": "tasks.json"} if measured else {}))


def _check_tasks(tasks: Names, **options: Any) -> None:
    """Raises JaxlvError if tasks are named and cannot be measured here, or if they are not and have options."""
    if not tasks:
        idle("no --tasks are named", **options)
    elif importlib.util.find_spec("lm_eval") is None:
        raise JaxlvError("needs lm-evaluation-harness", where="--tasks", hint='pip install "jaxlv[harness]"')


class _Measured(NamedTuple):
    """Scores of the harness's tasks before and after tuning, and their table."""

    scores: dict[str, Any]
    table: str


def _measured(model: str, tasks: Names, folder: Path | None, limit: int | None) -> _Measured:
    from jaxlv.integrations import harness

    found = harness.before_and_after(model, tasks, purpose=f"{CALL.purpose} tasks", include=folder, limit=limit)
    return _Measured(found, harness.format_table(found))


app = verb(probe)
