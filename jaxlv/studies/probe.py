"""A probe: questions to a run, before and after tuning, or to a bare model, and what a text costs it, in a folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from jaxlv.analysis.probe import PROMPTS, Prompt, Text, answers, read, read_prompts, templated, text_windows
from jaxlv.config import RunConfig, SamplingConfig, build_config, config_tree, override
from jaxlv.errors import JaxlvError
from jaxlv.flops.ledger import FINAL, Meter
from jaxlv.forecasting.sampler import Sampler
from jaxlv.model.config import ModelConfig
from jaxlv.model.weights import base_of
from jaxlv.report import page
from jaxlv.report import probe as report
from jaxlv.results.probe import Answer, Asked, Probe, ProbeCost, TextCost, TextRead
from jaxlv.runs import run, sources
from jaxlv.storage.door import is_there
from jaxlv.storage.files import check_free, new_folder, read_text, write_json
from jaxlv.storage.tables import write_csv
from jaxlv.studies.progress import Begin, Say, Silent, unsaid
from jaxlv.studies.subjects import Models, model_name
from jaxlv.text.codec import Codec
from jaxlv.text.language import Language, generation_defaults, load_language
from jaxlv.versions import versions

RESULT, TABLE, REPORT = "probe.json", "probe.csv", "report.html"
GREEDY = SamplingConfig(temperature=0.0, grammar=False)
ALLOWED = {"sampling": ("repetition_penalty", "temperature", "top_k", "top_p")}
OF_A_BARE_MODEL = {"model": ("attention", "dtype", "weights")}


@dataclass(frozen=True)
class Questions:
    """What a run folder, a model folder or a hub id is asked, and how.

    Answers are greedy, unless the model's own defaults (if `model_defaults`), `overrides` ("section.key=value") or
    `sampling` say otherwise; the later go before the earlier. Of `text` (a file) the perplexity is measured, in windows of
    `window` tokens that begin every `stride` tokens (half a window if 0). `batch` prompts or windows are computed together.
    """

    subject: str
    prompts: Path | None = None  # five if None
    max_new_tokens: int = 128
    sampling: Mapping[str, Any] = field(default_factory=dict)
    model_defaults: bool = False
    overrides: Sequence[str] = ()
    seed: int = 0
    text: Path | None = None
    window: int = 512
    stride: int = 0
    batch: int = 8

    @property
    def step(self) -> int:
        """Tokens from one window of the text to the next."""
        return self.stride or max(1, self.window // 2)

    @property
    def is_run(self) -> bool:
        """Whether a run is asked."""
        return is_there(Path(self.subject) / run.CONFIG)


def probe(
    asked: Questions,
    out: Path | None = None,
    *,
    purpose: str = "",
    begin: Begin = Silent,
    say: Say = unsaid,
    overwrite: bool = False,
) -> Probe:
    """Asks, and writes probe.json, probe.csv and report.html into the new folder `out`, if it is not None.

    A run's budget pays for it; `purpose` names the result in its ledger. Returns probe.json. Raises
    JaxlvError if the model has no language tokenizer with a chat template, if the prompts, the text or the settings do not
    fit, or if `out` exists (with `overwrite`, if it is not such a folder).
    """
    if out:
        check_free(out, overwrite, RESULT)
    config, sampling = settings(asked)
    base = base_of(config.model)
    shape = ModelConfig.from_folder(base)
    language = load_language(base, shape.vocab_size)
    prompts = read_prompts(asked.prompts) if asked.prompts else list(PROMPTS)
    templated(language, prompts, asked.max_new_tokens, shape.max_position_embeddings)
    text = None
    if asked.text:
        content, positions = read_text(asked.text, "text"), shape.max_position_embeddings
        text = text_windows(language, content, asked.window, asked.step, positions)
    paid_for = purpose if out else ""
    with models(asked, config, paid_for) as found, _made(out, overwrite) as work:
        say(f"sampling: {report.sampling_words(config_tree(sampling))}; at most {asked.max_new_tokens} tokens")
        forecasters = {name: replace(forecaster, sampling=sampling) for name, forecaster in found.items()}
        spending = _Spending(forecasters)
        result = Probe(
            ask(forecasters, language, prompts, asked, begin),
            asked.max_new_tokens,
            measured(forecasters, text, asked, begin) if text else None,
            subject=Path(asked.subject).name if asked.is_run else model_name(asked.subject, base),
            base=model_name(config.model.path, base),
            prompts_from=asked.prompts.name if asked.prompts else "the five of the report of Mao",
            sampling={key: value for key, value in config_tree(sampling).items() if key != "grammar"},
            seed=asked.seed,
            flops=spending.cost(),
            versions=versions(),
        )
        if work:
            write(work, result)
    return result


def _made(out: Path | None, overwrite: bool) -> contextlib.AbstractContextManager[Path | None]:
    return new_folder(out, replace=overwrite, made_by=RESULT) if out else contextlib.nullcontext()


def settings(asked: Questions) -> tuple[RunConfig, SamplingConfig]:
    """Returns the config of the run or of the bare model, and how answers are drawn.

    Raises JaxlvError if `overrides` name another setting than a probe has.
    """
    tree = override({}, asked.overrides)
    allowed = ALLOWED if asked.is_run else ALLOWED | OF_A_BARE_MODEL
    for section, values in tree.items():
        for key in values if isinstance(values, dict) else [""]:
            if key not in allowed.get(section, ()):
                expected = ", ".join(f"{name}.{one}" for name, keys in allowed.items() for one in keys)
                raise JaxlvError("not a setting of a probe", where=f"--set {section}.{key}", expected=expected)
    given: RunConfig = build_config(RunConfig, tree, where="--set")
    bare = replace(given, model=replace(given.model, path=asked.subject))
    config = run.read_config(Path(asked.subject)) if asked.is_run else bare
    defaults = generation_defaults(base_of(config.model)) if asked.model_defaults else {}
    changed = {key: getattr(given.sampling, key) for key in tree.get("sampling", {})}
    return config, replace(GREEDY, **{**defaults, **changed, **asked.sampling})


@contextlib.contextmanager
def models(asked: Questions, config: RunConfig, purpose: str) -> Iterator[Models]:
    """Yields the models that are asked, by name: before tuning, and after it if a run is asked."""
    if asked.is_run:
        with run.load_run(Path(asked.subject)).metered(purpose) as found:
            yield {name: found[name] for name in ("untuned", "tuned")}
    else:
        _, model, params, alphabet = sources.load_base(config, trains=False)
        yield {"untuned": Sampler(model, {"params": params}, alphabet, Codec(), GREEDY)}


class _Spending:
    """Tells what is spent from now on of the budget that pays for the models."""

    def __init__(self, forecasters: Models):
        meter = next(iter(forecasters.values())).meter
        self.ledger = meter.ledger if isinstance(meter, Meter) else None
        self.before = self.ledger.totals().executed if self.ledger else 0

    def cost(self) -> ProbeCost | None:
        """Returns what was spent; None if nothing pays."""
        if self.ledger is None:
            return None
        spent = self.ledger.totals().executed - self.before
        return ProbeCost(self.ledger.terms.convention, spent, self.ledger.left(FINAL))


def ask(
    forecasters: Models, language: Language, prompts: Sequence[Prompt], asked: Questions, begin: Begin = Silent
) -> tuple[Asked, ...]:
    """Returns for each prompt what is expected, what the model reads, and each model's answer."""
    found = {}
    for name, forecaster in forecasters.items():
        with begin(f"answers ({name})", len(prompts)) as bar:
            more: dict[str, Any] = {"seed": asked.seed, "batch": asked.batch, "on_batch": bar.update}
            found[name] = answers(forecaster, language, prompts, asked.max_new_tokens, **more)
    return tuple(
        Asked(
            prompt.text,
            {name: Answer(**asdict(given[place])) for name, given in found.items()},
            language.chat(prompt.text),
            prompt.expected or None,
            prompt.note or None,
        )
        for place, prompt in enumerate(prompts)
    )


def measured(forecasters: Models, text: Text, asked: Questions, begin: Begin = Silent) -> TextRead:
    """Returns what a text costs each model."""
    assert asked.text
    found = {}
    for name, forecaster in forecasters.items():
        with begin(f"text ({name})", text.windows.number) as bar:
            reading = read(forecaster, text, asked.batch, bar.update)
        costs = (reading.nats_per_token, reading.perplexity, reading.bits_per_byte)
        found[name] = TextCost(*costs, nats=reading.nats, tokens_scored=reading.tokens)
    content = read_text(asked.text, "text").encode()
    sha256 = hashlib.sha256(content).hexdigest()
    return TextRead(asked.text.name, len(content), text.tokens, asked.window, asked.step, found, sha256)


def write(out: Path, result: Probe) -> None:
    """Writes probe.json, probe.csv (a row for each prompt and model) and report.html into a folder."""
    write_json(out / RESULT, result.tree(), ensure_ascii=False)
    rows = [
        {"prompt": one.prompt, "expected": one.expected, "model": name, **answer.tree()}
        for one in result.prompts
        for name, answer in one.answers.items()
    ]
    write_csv(out / TABLE, pd.DataFrame(rows).rename(columns={"text": "answer"}))
    page.write(out / REPORT, report.page_of(result))
