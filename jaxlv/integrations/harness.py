"""jaxlv as a model of EleutherAI's lm-evaluation-harness: `JaxlvLM`, called `jaxlv` there. It needs the extra `harness`.

Importing this module registers the model. The harness's own program, with the model in it, is

    python -m jaxlv.integrations.harness --model jaxlv --model_args pretrained=FOLDER --tasks NAMES

and `measure` is the same in Python. Texts are cut into tokens, scored and continued as by the harness's model `hf`, without
PyTorch.

Axes: B rows of a batch, L tokens of a row.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from jaxlv.api import open_model
from jaxlv.config import SamplingConfig
from jaxlv.errors import WHOLE, JaxlvError, all_finite, printable
from jaxlv.forecasting.sampler import Sampler
from jaxlv.lora.adapters import load_adapter
from jaxlv.model.qwen2 import Qwen2, features
from jaxlv.model.weights import base_of, load_pretrained, resolve
from jaxlv.report import terminal
from jaxlv.report.table import Table, words
from jaxlv.results.quantities import Quantity
from jaxlv.runs import run
from jaxlv.settings import SEEDS
from jaxlv.steps.loss import Scores, token_scores
from jaxlv.steps.prompts import Prompts, padded
from jaxlv.storage import foreign
from jaxlv.storage.door import is_there
from jaxlv.text.codec import SYMBOLS, Codec
from jaxlv.text.language import GENERATION, PHRASE
from jaxlv.text.tokenizer import Tokenizer, open_tokenizer
from jaxlv.text.tokens import IGNORED, NO_POSITION, QWEN_END, Alphabet, Windows, stack
from jaxlv.text.vocabulary import SETTINGS

NAME = "jaxlv"
BLOCK = 64  # tokens that are drawn before it is looked whether an answer has ended
ANSWER = 256  # tokens of an answer, if a task does not say
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the names of that, the first goes first
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
Request = tuple[Any, list[int], list[int]]  # what the harness keeps it by, the tokens of the context, those that are scored


@register_model(NAME)
class JaxlvLM(TemplateLM):  # type: ignore[misc]
    """A Qwen2.5 checkpoint or a jaxlv run as a model of the harness.

    Answers are greedy unless a task says otherwise, with the repetition penalty of the model's generation_config.json, as
    transformers has it.

    Args:
        pretrained: a folder in Hugging Face's format, a hub id, "embedded", a run folder, or a forecaster that is open, such
            as those of `FinishedRun.metered`; then `tokenizer` is needed.
        adapter: a folder in PEFT's format, laid over the model.
        tokenizer: a folder with the model's tokenizer, if the model has none.
        dtype: "float32" or "bfloat16", of a checkpoint.
        batch_size: texts that are computed together.
        max_length: tokens that the model is given at most; its positions if None.
        seed: of what tasks draw.
        **ignored: what the harness says of devices, which JAX chooses.

    Raises:
        JaxlvError: if the model, its tokenizer or a setting is not usable.
    """

    backend = "causal"
    tokenizer = None  # the harness would ask it for its template

    def __init__(
        self,
        pretrained: Any = "embedded",
        adapter: str | Path | None = None,
        tokenizer: str | Path | None = None,
        dtype: str = "float32",
        batch_size: int | str = 8,
        max_length: int | None = None,
        seed: int = 0,
        **ignored: Any,
    ):
        super().__init__()
        unknown = sorted(set(ignored) - {"device", "max_batch_size"})
        if unknown:
            expected = "pretrained, adapter, tokenizer, dtype, batch_size, max_length, seed"
            raise JaxlvError(f"unknown argument {unknown[0]}", where="model_args", expected=expected)
        if not str(batch_size).isdecimal() or not int(batch_size):
            raise JaxlvError("not a batch size", where="batch_size", expected="a whole number from 1 on", found=batch_size)
        self.batch_size, self.seed, self.name = int(batch_size), int(seed), str(pretrained)
        self.forecaster, folder = _read(pretrained, adapter, dtype)
        positions = self.forecaster.model.config.max_position_embeddings
        self.max_length = int(max_length or positions)
        if not 2 <= self.max_length <= positions:
            raise JaxlvError("not a length", where="max_length", expected=f"2 to {positions} tokens", found=max_length)
        self.words = Words(tokenizer or folder, self.forecaster.model.config.vocab_size)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.words.end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text of which the first token is scored: the tokenizer's first, or else its last."""
        return self.words.begin

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's folder and content, by which the harness keeps requests."""
        return f"{self.words.tokenizer.folder.name}-{self.words.tokenizer.digest[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        """Returns the tokens of a text, with nothing added."""
        return self.words.tokenizer.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a conversation as the model's chat template writes it.

        It ends where the answer begins, or else with the last message, which is to be continued. Raises JaxlvError if there
        is no template, or if it refuses.
        """
        return self.words.tokenizer.conversation(chat_history, add_generation_prompt)

    # ------------------------------------------------------------------------------------------- likelihoods

    def _loglikelihood_tokens(self, requests: Sequence[Request], disable_tqdm: bool = False, **ignored: Any) -> list[Any]:
        """Returns for each request the log-likelihood of its tokens, nats, and whether each of them is the likeliest."""
        texts = [self._scored(*request[1:]) for request in requests]
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place].ids))
        found: list[Any] = [None] * len(texts)
        for part in _parts(order, self.batch_size):
            scores = self._scores([texts[place] for place in part])
            for row, place in enumerate(part):
                real_L = scores.labels_BL[row] != IGNORED
                total, likeliest = -float(scores.loss_BL[row, real_L].sum()), bool(scores.likeliest_BL[row, real_L].all())
                found[place] = (total, likeliest)
                if requests[place][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], found[place])
        return found

    def _scored(self, context: list[int], continuation: list[int]) -> _Text:
        """Returns what the model reads, cut on the left if it is too long."""
        if not context or not 0 < len(continuation) <= self.max_length:
            expected = f"a context, and 1 to {self.max_length} tokens behind it"
            raise JaxlvError("nothing that can be scored", where=NAME, expected=expected, found=len(continuation))
        ids = np.array([*context, *continuation][-(self.max_length + 1) :], np.int32)
        if ids.max() >= self.forecaster.model.config.vocab_size:
            raise JaxlvError("token ids outside the vocabulary", where=NAME, found=int(ids.max()))
        return _Text(ids[:-1], ids[1:], len(continuation))

    def _scores(self, texts: Sequence[_Text]) -> _Scored:
        """Returns the scores of a batch of texts, the first of which is the longest."""
        width = padded(len(texts[0].ids))
        windows = stack([one.window(width) for one in texts], width)
        filled = windows.rows(np.resize(np.arange(len(texts)), self.batch_size))  # one shape is compiled
        with self.forecaster.spending("validation", batch=self.batch_size, length=width, head="frozen"):
            loss_BL, likeliest_BL = map(np.asarray, _scores(self.forecaster.model, self.forecaster.variables, filled))
        all_finite(loss_BL, "the model's likelihoods", "the harness's texts")
        return _Scored(loss_BL.astype(np.float64), likeliest_BL, filled.labels_ML)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihood of whole texts, nats, each token given as much before it as the model reads."""
        windows, owners = [], []
        for place, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for pair in utils.get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *utils.make_disjoint_window(pair)))
                owners.append(place)
        nats = [total for total, _ in self._loglikelihood_tokens(windows)]
        totals = np.bincount(owners, nats, len(requests)).tolist() if owners else [0.0] * len(requests)
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # ----------------------------------------------------------------------------------------------- answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns what the model writes behind each context, up to the first of the texts that end it.

        Raises JaxlvError if a task asks for something else than temperature, top_k, top_p and repetition_penalty.
        """
        asked = [self._asked(*request.args) for request in requests]
        found = [""] * len(asked)
        for how in dict.fromkeys(one.how for one in asked):
            places = [place for place, one in enumerate(asked) if one.how == how]
            places.sort(key=lambda place: -len(asked[place].ids))
            for part in _parts(places, self.batch_size):
                for place, text in zip(part, self._answers([asked[place].ids for place in part], part, how), strict=True):
                    found[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
        return found

    def _asked(self, context: str, wanted: Mapping[str, Any]) -> _Asked:
        how = _how(wanted, self.words.penalty)
        room = self.max_length - how.tokens
        ids = self.tok_encode(context)[-room:] if room > 0 else []
        if not ids:
            expected = f"a context, and an answer of fewer than {self.max_length} tokens"
            raise JaxlvError("nothing that can be continued", where=NAME, expected=expected, found=f"{how.tokens} tokens")
        return _Asked(np.array(ids, np.int32), how)

    def _answers(self, prompts: Sequence[np.ndarray], places: Sequence[int], how: _How) -> list[str]:
        """Returns the answers of a batch; a row is done when its text has ended."""
        forecaster = replace(self.forecaster, sampling=how.sampling)
        ends = self.words.ends | {id for text in how.until if (id := self.words.special(text)) is not None}
        alphabet = replace(forecaster.alphabet, end_ids=tuple(sorted(ends)))
        written: list[list[int]] = [[] for _ in prompts]
        going = list(range(len(prompts)))
        for begin in range(0, how.tokens, BLOCK):
            rows = np.resize(going, self.batch_size)  # one shape is compiled
            texts = [np.concatenate([prompts[row], np.array(written[row], np.int32)]) for row in rows]
            asked = Prompts(texts, series=[places[row] for row in rows])
            count, seed = min(BLOCK, how.tokens - begin), (self.seed + begin) % (SEEDS + 1)
            drawn = forecaster.generated(asked, 1, count, alphabet=alphabet, seed=seed)
            for row, ids_NC, length_N in zip(going, drawn.ids_SNC, drawn.lengths_SN, strict=False):
                written[row] += ids_NC[0, : length_N[0]].tolist()
            lengths = dict(zip(going, drawn.lengths_SN[:, 0].tolist(), strict=False))
            going = [row for row in going if lengths[row] == count and not self._has_ended(written[row], how.until)]
            if not going:
                break
        return [_until(self.words.tokenizer.words(ids), how.until) for ids in written]

    def _has_ended(self, ids: list[int], until: Iterable[str]) -> bool:
        text = self.words.tokenizer.words(ids)
        return any(one in text for one in until)


def measure(
    model: Any, tasks: str | Sequence[str], *, include: str | Path | None = None, limit: int | None = None, **model_args: Any
) -> dict[str, dict[str, Any]]:
    """Measures a model by tasks of the harness.

    Args:
        model: what `JaxlvLM` takes, or one.
        tasks: names of tasks, or one of them.
        include: a folder with further task files.
        limit: the first examples of each task alone.
        **model_args: further arguments of `JaxlvLM`.

    Returns:
        The metrics of each task, by their names in the harness.

    Raises:
        JaxlvError: if a task is unknown or fails, or if the model cannot be read.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if include is not None and not Path(include).is_dir():
        raise JaxlvError("no such folder", where=include, expected="a folder with task files of the harness")
    manager = TaskManager(include_path=None if include is None else str(include))
    for name in names:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, 1)
            hint = f"did you mean {near[0]}?" if near else "lm-eval ls tasks lists them; --task-folder adds others"
            raise JaxlvError("no task of that name", where=name, expected="a task of lm-evaluation-harness", hint=hint)
    lm = model if isinstance(model, JaxlvLM) else JaxlvLM(model, **model_args)
    try:
        found = simple_evaluate(lm, tasks=names, task_manager=manager, limit=limit, log_samples=False)
    except (JaxlvError, MemoryError):
        raise
    except Exception as fault:  # of the harness, of what reads its data, or of the net
        what = f"{type(fault).__name__}: {printable(fault, 300)}"
        raise JaxlvError("the harness cannot run these tasks", where=", ".join(names), found=what) from fault
    return {} if found is None else dict(found["results"])


def before_and_after(subject: str, tasks: str | Sequence[str], *, purpose: str = "", **how: Any) -> dict[str, Any]:
    """Measures a run by tasks of the harness before and after tuning, or a bare model as it is.

    Args:
        subject: a run folder, a folder in Hugging Face's format, or a hub id.
        tasks: names of tasks, or one of them.
        purpose: names the result in the ledger of a run that has a budget, which pays for it.
        **how: further arguments of `measure`.

    Returns:
        For "untuned", and for "tuned" if it is a run, the metrics of each task.

    Raises:
        JaxlvError: if the model cannot be read.
    """
    if not is_there(Path(subject) / run.CONFIG):
        return {"untuned": measure(subject, tasks, **how)}
    finished = run.load_run(Path(subject))
    words = {"tokenizer": base_of(finished.config.model), **how}
    with finished.metered(purpose) as models:
        return {name: measure(models[name], tasks, **words) for name in ("untuned", "tuned")}


def format_table(found: Mapping[str, Any]) -> str:
    """Writes what `before_and_after` returns for a terminal: a row for each task and metric, a column for each model."""
    rows: dict[str, dict[str, Any]] = {}
    for model, metrics in found.items():
        for task, values in metrics.items():
            for metric, value in values.items():
                if isinstance(value, float):
                    rows.setdefault(f"{task}: {metric.removesuffix(',none')}", {})[model] = value
    columns = [words("name", "task"), *(Quantity(model) for model in found)]
    lines = [{"name": name, **row} for name, row in rows.items()]
    return terminal.table(Table("", "", lines, columns), width=WHOLE, longest=WHOLE)


# --------------------------------------------------------------------------------------------------- the model


def _read(given: Any, adapter: str | Path | None, dtype: str) -> tuple[Sampler, Path | None]:
    """Returns the model, and the folder that has its tokenizer."""
    if isinstance(given, Sampler):
        return given, None
    if is_there(Path(given) / run.CONFIG):
        return open_model(given, adapter), base_of(run.read_config(Path(given)).model)
    folder = resolve(given)
    model, params = load_pretrained(folder, dtype)
    variables = {"params": params}
    if adapter is not None:
        variables["lora"] = load_adapter(adapter, model, given)
    # Forecasts need an alphabet; a language model whose tokenizer does not suit them needs none.
    alphabet = Alphabet(np.zeros(len(SYMBOLS), np.int32), (), "none")
    return Sampler(model, variables, alphabet, Codec(), SamplingConfig(temperature=0.0, grammar=False)), folder


class Words:
    """The tokenizer in a folder, with the tokens that begin and end a text.

    Raises JaxlvError if there is none, if it cannot write plain text, or if it has ids outside the vocabulary.
    """

    def __init__(self, folder: str | Path | None, vocab_size: int):
        found = None if folder is None else open_tokenizer(folder)
        if found is None:
            expected = "a folder with the tokenizer of a language"
            raise JaxlvError("no tokenizer", where=folder or "tokenizer", expected=expected, hint="give tokenizer=FOLDER")
        self.tokenizer: Tokenizer = found
        facts = found.facts(PHRASE, tuple(QWEN_END))
        if facts["written"] != PHRASE or not facts["ends"]:
            raise JaxlvError("the tokenizer cannot write plain text", where=folder, found=f"{facts['tokens']} tokens")
        if facts["largest"] >= vocab_size:
            expected = f"< {vocab_size}"
            raise JaxlvError("token ids outside the vocabulary", where=folder, expected=expected, found=facts["largest"])
        settings = {} if folder is None else foreign.settings(folder, GENERATION) or {}
        own = settings.get("eos_token_id")
        self.end = int(facts["ends"][0])
        self.begin = self._begin(found.folder)
        self.ends = {self.end, *(id for id in (own if isinstance(own, list) else [own]) if type(id) is int)}
        self.penalty = float(foreign.typed(settings, "repetition_penalty", float, folder, 1.0))

    def _begin(self, folder: Path) -> int:
        given = (foreign.settings(folder, SETTINGS) or {}).get("bos_token")
        text = given.get("content") if isinstance(given, dict) else given
        id = self.special(text) if isinstance(text, str) else None
        return self.end if id is None else id

    @functools.cache  # noqa: B019 - as few as there are texts that end answers
    def special(self, text: str) -> int | None:
        """Returns the id of a special token by its text; None if it is none."""
        ids = self.tokenizer.encode(text)
        return ids[0] if len(ids) == 1 and not self.tokenizer.words(ids) else None


# -------------------------------------------------------------------------------------------------- requests


class _Text(NamedTuple):
    """What the model reads, the token behind each, and how many of the last are scored."""

    ids: np.ndarray
    labels: np.ndarray
    scored: int

    def window(self, width: int) -> Windows:
        """Returns it padded on the right."""
        pad, labels = (0, width - len(self.ids)), self.labels.copy()
        labels[: len(labels) - self.scored] = IGNORED
        positions = np.arange(len(self.ids))
        return Windows(
            np.pad(self.ids, pad),
            np.pad(positions, pad, constant_values=NO_POSITION),
            np.pad(labels, pad, constant_values=IGNORED),
        )


class _Scored(NamedTuple):
    """Of each token: its cost in nats, whether it is the likeliest, and the label, -1 if it is not scored."""

    loss_BL: np.ndarray
    likeliest_BL: np.ndarray
    labels_BL: np.ndarray


class _How(NamedTuple):
    """How an answer is drawn, how long it is at most, and what ends it."""

    sampling: SamplingConfig
    tokens: int
    until: tuple[str, ...]


class _Asked(NamedTuple):
    """The tokens of a context, and how they are continued."""

    ids: np.ndarray
    how: _How


def _how(wanted: Mapping[str, Any], penalty: float) -> _How:
    """Returns how a task wants its answers; raises JaxlvError for what is not known."""
    left = {name: value for name, value in wanted.items() if value is not None}
    until = left.pop("until", [])
    limits = [int(left.pop(name)) for name in LIMITS if name in left]
    draws = left.pop("do_sample", None)
    given = {name: left.pop(name) for name in SAMPLING if name in left}
    if left.pop("num_beams", 1) != 1 or left:
        found = ", ".join(sorted(left)) or "num_beams"
        raise JaxlvError("a task asks for another way to draw", where=NAME, expected=", ".join(SAMPLING), found=found)
    warm = float(given.get("temperature", 1.0 if draws else 0.0))
    settings = {"repetition_penalty": penalty, **given, "temperature": 0.0 if draws is False else warm}
    texts = (until,) if isinstance(until, str) else tuple(until)
    return _How(SamplingConfig(**settings, grammar=False), limits[0] if limits else ANSWER, tuple(filter(None, texts)))


def _until(text: str, until: Iterable[str]) -> str:
    """Returns a text up to the first of the texts that end it."""
    for one in until:
        text = text.split(one, 1)[0]
    return text


def _parts(order: Sequence[int], size: int) -> Iterator[list[int]]:
    for begin in range(0, len(order), size):
        yield list(order[begin : begin + size])


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Qwen2, variables: dict[str, Any], windows: Windows) -> Scores:
    x_BLD, head, _ = features(model, variables, windows.ids_ML, windows.positions_ML)
    return token_scores(x_BLD, head, windows.labels_ML)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    main: Callable[[], None] = cli_evaluate
    main()
