"""`jaxlv probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jaxlv.config import EvaluateConfig
from jaxlv.tools.console import CALL, Progress, Result, made, say, verb
from jaxlv.tools.options import Drawn, Settings, given, setting, whole


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
    set: Settings = (),
    out: Path | None = None,
    sampling: Drawn | None = None,
) -> Result:
    """Ask a run, before and after tuning, or a bare model what has nothing to do with forecasts; measure a text's cost.

        jaxlv probe RUN --out DIR
        jaxlv probe MODEL --prompts questions.jsonl --text essay.txt --temperature 0.7 --seed 1

    A run gives tuned and untuned answers side by side; MODEL is a Hugging Face folder or a hub id. The base needs a language
    tokenizer with a chat template: Qwen2.5 has one, the embedded base does not. Five prompts are built in; a file has one a
    line or, as .jsonl, {"prompt": ..., "expected": ...} a line. What is expected is a text that the answer must contain, or
    a regular expression between slashes. Answers are greedy, without a repetition penalty, unless options say otherwise.

    --text adds the perplexity of a file. DIR gets probe.json, probe.csv and report.html; without --out the answers are only
    shown. If the run has a budget, it pays for everything. --set takes sampling.*, and model.dtype and model.attention of a
    bare model.

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
        out: folder for probe.json, probe.csv and report.html
    """
    from jaxlv.report import probe as report
    from jaxlv.studies import probe as study

    how = (max_new_tokens, given(sampling), generation_defaults, set, seed)
    asked = study.Questions(run_or_model, prompts, *how, text, window, stride or 0, batch)
    result = study.probe(asked, out, purpose=CALL.purpose, begin=Progress, say=say)
    listing = f"\n{report.format_answers(result)}\n\n{report.summary(result)}"
    if not out:
        return Result(listing, {"result": result.tree()})
    files = {"answers": study.RESULT, "table": study.TABLE, "report": study.REPORT}
    return made(out, [listing], {"result": result.tree()}, **files)


app = verb(probe)
