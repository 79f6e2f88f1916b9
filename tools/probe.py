"""Ask a run, before and after tuning, or a bare model what has nothing to do with forecasts; measure what a text costs it.

    jaxlv probe RUN --out DIR
    jaxlv probe MODEL --prompts questions.jsonl --text essay.txt --temperature 0.7 --seed 1

A run gives tuned and untuned answers side by side; MODEL is a Hugging Face folder or a hub id. Its base must have a language
tokenizer with a chat template, as Qwen2.5 has and the embedded base has not. Prompts are five, or those of a file: one a
line, or .jsonl with {"prompt": ..., "expected": ...} a line, where what is expected is a text that must stand in the answer,
or a regular expression between slashes. Answers are greedy, without a repetition penalty, unless options say otherwise.

--text adds the perplexity of a file. DIR gets probe.json, probe.csv and report.html; without --out answers are only shown.
Where the run has a budget, all of it is paid from there. --set takes sampling.*, and model.dtype and model.attention of a
bare model.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.analysis.probe import PROMPTS, Prompt, Text, answers, read, read_prompts, templated, text_windows
from jaxlv.config import EvaluateConfig, RunConfig, SamplingConfig, build_config, config_tree, override
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import FINAL, Meter
from jaxlv.forecasting.evaluate import plain
from jaxlv.forecasting.forecaster import Forecaster
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import base_of
from jaxlv.report import probe
from jaxlv.runs import run, sources
from jaxlv.storage.door import is_there
from jaxlv.storage.files import new_folder, read_text, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.text.codec import Codec
from jaxlv.text.language import Language, generation_defaults, load_language
from jaxlv.tools.bare import model_name
from jaxlv.tools.console import Progress, add_sampling, describe, option, program, sampling_of, whole
from jaxlv.versions import versions

GREEDY = SamplingConfig(temperature=0.0, grammar=False)


def arguments() -> argparse.ArgumentParser:
    parser = describe("probe", __doc__)
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, model folder, or hub id")
    parser.add_argument("--prompts", type=Path, help="file of prompts (default: the five of the report of Mao)")
    parser.add_argument("--max-new-tokens", type=whole(), default=128, help="of an answer (default 128)")
    add_sampling(parser, grammar=False)
    parser.add_argument(
        "--generation-defaults", action="store_true", help="sample as the model's own generation_config.json says"
    )
    parser.add_argument("--seed", default=0, **option(EvaluateConfig, "seed", "of sampled answers (default 0)"))
    parser.add_argument("--text", type=Path, help="text file (UTF-8) whose perplexity is measured")
    parser.add_argument("--window", type=whole(2), default=512, help="tokens of a window of the text (default 512)")
    parser.add_argument("--stride", type=whole(), help="tokens from window to window (default half a window)")
    parser.add_argument("--batch", type=whole(), default=8, help="prompts, or windows, computed together (default 8)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated")
    parser.add_argument("--out", type=Path, help="folder for probe.json, probe.csv and report.html")
    return parser


def settings(options: argparse.Namespace, is_run: bool) -> tuple[RunConfig, SamplingConfig]:
    """(the config of the run, or of a bare model; how answers are drawn): greedy < model's defaults < --set < options."""
    tree = override({}, options.set)
    allowed = {"sampling": {"temperature", "top_k", "top_p", "repetition_penalty"}}
    if not is_run:
        allowed["model"] = {"dtype", "attention"}
    for section, values in tree.items():
        for key in values if isinstance(values, dict) else [""]:
            if key not in allowed.get(section, ()):
                expected = ", ".join(f"{name}.{k}" for name, keys in allowed.items() for k in sorted(keys))
                raise JaxlvError("not a setting of a probe", where=f"--set {section}.{key}", expected=expected)
    given: RunConfig = build_config(RunConfig, tree, where="--set")
    subject = Path(options.subject)
    config = run.read_config(subject) if is_run else replace(given, model=replace(given.model, path=str(subject)))
    defaults = generation_defaults(base_of(config.model)) if options.generation_defaults else {}
    changed = {key: getattr(given.sampling, key) for key in tree.get("sampling", {})}
    return config, replace(GREEDY, **(defaults | changed | sampling_of(options)))


@contextlib.contextmanager
def models(options: argparse.Namespace, config: RunConfig, is_run: bool) -> Iterator[dict[str, Forecaster]]:
    """The models that are asked, by name: before tuning, and after it where there is a run."""
    if is_run:
        with run.load_run(Path(options.subject)).metered(options.purpose if options.out else "") as found:
            yield {name: found[name] for name in ("untuned", "tuned")}
    else:
        _, model, params, alphabet = sources.load_base(config)
        yield {"untuned": Forecaster(model, {"params": params}, alphabet, Codec(), GREEDY)}


def ask(
    forecasters: dict[str, Forecaster], language: Language, prompts: Sequence[Prompt], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The entries of probe.json for each prompt: what is expected, what the model reads, and every model's answer."""
    found = {}
    for name, forecaster in forecasters.items():
        with Progress(f"answers ({name})", len(prompts)) as bar:
            more = {"seed": options.seed, "batch": options.batch, "on_batch": bar.update}
            found[name] = answers(forecaster, language, prompts, options.max_new_tokens, **more)
    return [
        {
            "prompt": prompt.text,
            "expected": prompt.expected or None,
            "note": prompt.note or None,
            "read": language.chat(prompt.text),
            "answers": {name: asdict(given[place]) for name, given in found.items()},
        }
        for place, prompt in enumerate(prompts)
    ]


def measure(forecasters: dict[str, Forecaster], text: Text, options: argparse.Namespace) -> dict[str, Any]:
    """The entry of probe.json for a text."""
    found = {}
    for name, forecaster in forecasters.items():
        with Progress(f"text ({name})", text.windows.number) as bar:
            reading = read(forecaster, text, options.batch, bar.update)
        found[name] = {
            "nats": reading.nats,
            "tokens_scored": reading.tokens,
            "nats_per_token": reading.nats_per_token,
            "perplexity": reading.perplexity,
            "bits_per_byte": reading.bits_per_byte,
        }
    content = read_text(options.text, "text").encode()
    return {
        "file": options.text.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "tokens": text.tokens,
        "window": options.window,
        "stride": options.stride,
        "models": found,
    }


def write(out: Path, result: dict[str, Any]) -> None:
    """Leave probe.json, probe.csv (a row for each prompt and model) and report.html in a folder."""
    write_json(out / "probe.json", result, ensure_ascii=False)
    rows = [
        {"prompt": entry["prompt"], "expected": entry["expected"], "model": name, **answer}
        for entry in result["prompts"]
        for name, answer in entry["answers"].items()
    ]
    write_csv(out / "probe.csv", pd.DataFrame(rows).rename(columns={"text": "answer"}))
    probe.write_page(out / "report.html", result)


@program(arguments)
def main(options: argparse.Namespace) -> None:
    is_run = is_there(Path(options.subject) / run.CONFIG)
    config, sampling = settings(options, is_run)
    base = base_of(config.model)
    shape = ModelConfig.from_folder(base)
    language = load_language(base, shape.vocab_size)
    prompts = read_prompts(options.prompts) if options.prompts else list(PROMPTS)
    templated(language, prompts, options.max_new_tokens, shape.max_position_embeddings)
    options.stride = options.stride or max(1, options.window // 2)
    text = None
    if options.text:
        positions = shape.max_position_embeddings
        text = text_windows(language, read_text(options.text, "text"), options.window, options.stride, positions)
    with (
        models(options, config, is_run) as found,
        new_folder(options.out) if options.out else contextlib.nullcontext() as out,
    ):
        print(f"sampling: {probe.sampling_words(config_tree(sampling))}; at most {options.max_new_tokens} tokens")
        forecasters = {name: replace(forecaster, sampling=sampling) for name, forecaster in found.items()}
        paid_by = next(iter(forecasters.values())).meter
        meter = paid_by if isinstance(paid_by, Meter) else None
        before = meter.ledger.totals().executed if meter else 0
        result = plain(
            {
                "subject": Path(options.subject).name if is_run else model_name(options.subject, base),
                "base": model_name(config.model.path, base),
                "prompts_from": options.prompts.name if options.prompts else "the five of the report of Mao",
                "sampling": {key: value for key, value in config_tree(sampling).items() if key != "grammar"},
                "max_new_tokens": options.max_new_tokens,
                "seed": options.seed,
                "prompts": ask(forecasters, language, prompts, options),
                "text": measure(forecasters, text, options) if text else None,
                "flops": meter and {
                    "convention": meter.ledger.terms.convention,
                    "spent": meter.ledger.totals().executed - before,
                    "left": meter.ledger.left(FINAL),
                },
                "versions": versions(),
            }
        )  # fmt: skip
        print(f"\n{probe.format_answers(result)}\n\n{probe.summary(result)}")
        if out:
            write(out, result)
    if out := options.out:
        print(f"answers: {out / 'probe.json'}, {out / 'probe.csv'}\nreport:  {out / 'report.html'}")


if __name__ == "__main__":
    main()
