"""The page and the listing of `jaxlv probe`: answers before and after tuning side by side, and the cost of a text."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping
from typing import Any

from jaxlv.report.format import MISSING, number, plain
from jaxlv.report.page import Block, Page, Pairs, Passage, Passages, Section
from jaxlv.report.table import NAME, Table, column, of
from jaxlv.results.probe import Answer, Asked, Probe, TextCost, TextRead

MARKS = {True: "pass", False: "fail", None: ""}


def printable(text: str) -> str:
    """Replaces control characters except line ends and tabs: neither terminal nor page obeys the text."""
    text = text.replace("\r\n", "\n")
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


def shown(answer: Answer) -> str:
    """Returns what is shown of an answer: its text, or that nothing is to be seen."""
    text = printable(answer.text)
    return text if text.strip() else "(nothing but white space)" if text else MISSING


def sampling_words(sampling: Mapping[str, Any]) -> str:
    """Says every sampling parameter."""
    t, k, p = sampling["temperature"], sampling["top_k"], sampling["top_p"]
    return (
        f"temperature {t:g}{'' if t else ' (greedy)'}, top-k {k or 'off'}, top-p {p:g}{'' if p < 1 else ' (off)'},"
        f" repetition penalty {sampling['repetition_penalty']:g}"
    )


def summary(result: Probe) -> str:
    """Says how the answers were, in sentences."""
    models, prompts = result.models, result.prompts
    counts = {model: result.counts(model) for model in models}
    many = f"{len(prompts)} prompt{'s' if len(prompts) > 1 else ''}"
    sentences = [f"{many} ({printable(result.prompts_from)}) through the chat template of {printable(result.base)}."]
    if checked := counts[models[0]].checked:
        passed = ", ".join(f"{counts[model].passed} {model}" for model in models)
        sentences.append(f"Passed, of {checked} with an expected answer: {passed}.")
    if len(models) > 1:
        same = sum(len({answer.text for answer in entry.answers.values()}) == 1 for entry in prompts)
        sentences.append(f"The same word for word: {same} of {len(prompts)} answers.")
    if text := result.text:
        costs = ", ".join(f"{number(text.models[model].perplexity)} {model}" for model in models)
        sentences.append(f"Perplexity per token of {printable(text.file)}: {costs}.")
    return " ".join(sentences)


# ------------------------------------------------------------------------------------------------ the page


def answer_block(entry: Asked, place: int) -> Passages:
    """Returns a prompt and its answers."""
    notes = [f"Expected: {entry.expected}" if entry.expected else "", entry.note or ""]
    return Passages(
        f"{place}. {printable(entry.prompt)}",
        printable("; ".join(filter(None, notes))),
        [Passage(name, shown(answer), MARKS[answer.passed], _end(answer)) for name, answer in entry.answers.items()],
    )


def _end(answer: Answer) -> str:
    return f"{answer.tokens} tokens, {'ended' if answer.ended else 'cut off at the limit'}"


def count_table(result: Probe) -> Table:
    """Returns how many answers passed, and how many ended."""
    caption = (
        "Answers that hold what is expected, of those for which something is; answers that ended before the limit of"
        f" {result.max_new_tokens} tokens; tokens of an answer, on average. A pass is the expected text, or"
        " the regular expression between slashes, found in the answer: it does not"
        " say that the rest of it is right, nor that so few prompts measure an ability."
    )
    literal = of([("passes", "passed"), ("ends", "ended")], "Answers", form="literal")
    columns = [*literal, column("length", "tokens, mean", "Answers")]
    return Table("Answers", caption, {model: result.counts(model) for model in result.models}, [NAME, *columns])


def text_table(text: TextRead) -> Table:
    """Returns what the text costs each model."""
    scored = next(iter(text.models.values())).tokens_scored
    caption = (
        f"{printable(text.file)}: {text.bytes:,} bytes, {text.tokens:,} tokens, {scored:,} of them scored (all but"
        f" the first), in windows of at most {text.window} tokens that begin {text.stride} tokens apart: each token is"
        " scored once, with the longest context that a window has for it. Bold: the least, which is best."
    )
    columns = TextCost.columns("nats_per_token", "perplexity", "bits_per_byte")
    return Table("Perplexity of the text", caption, text.models, [NAME, *columns])


def page_of(result: Probe) -> Page:
    """Returns the page of a probe."""
    answers: list[Block] = [count_table(result)]
    answers += [answer_block(entry, place) for place, entry in enumerate(result.prompts, 1)]
    sections = [Section("Answers", answers)]
    if result.text:
        sections.append(Section("Perplexity of a text", [text_table(result.text)]))
    drawn = {**result.sampling, "max_new_tokens": result.max_new_tokens, "seed": result.seed}
    details: list[Block] = [
        Passages("What the model reads of the first prompt", "", [Passage("", printable(result.prompts[0].seen or ""))]),
        Pairs("How answers are drawn", [(name.replace("_", " "), plain(value)) for name, value in drawn.items()]),
        Pairs("Versions", [(name, plain(value)) for name, value in result.versions.items()]),
    ]
    cost = result.flops
    priced = (("Spent", cost.spent), ("Left", cost.left)) if cost else ()
    bill = [(f"{name} FLOPs ({cost.convention})", number(float(value))) for name, value in priced if cost]
    title = f"Probe of {printable(result.subject)}"
    return Page(title, summary(result), bill, [*sections, Section("How it was made", details)])


# ---------------------------------------------------------------------------------------------- the terminal


def format_answers(result: Probe, width: int = 110) -> str:
    """Writes prompts, answers and whether they pass as plain text of at most `width` columns."""
    widest = max(map(len, result.models))
    lines = []
    for place, entry in enumerate(result.prompts, 1):
        lines += _wrapped(f"{place}. ", printable(entry.prompt), width)
        for note in filter(None, (entry.note, entry.expected and f"expected: {entry.expected}")):
            lines += _wrapped("   ", f"({printable(note)})", width)
        for model, answer in entry.answers.items():
            head = f"   {model:<{widest}}  {MARKS[answer.passed]:<4}  "
            end = "" if answer.ended else " [cut off at the limit]"
            lines += _wrapped(head, shown(answer) + end, width)
        lines.append("")
    if text := result.text:
        for model, found in text.models.items():
            lines.append(
                f"{printable(text.file)}, {model}: perplexity {number(found.perplexity)},"
                f" {number(found.nats_per_token)} nats per token, {number(found.bits_per_byte)} bits per byte"
            )
    return "\n".join(lines).rstrip()


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Returns the lines of a text behind `head`, all indented alike."""
    found = []
    for line in text.strip("\n").split("\n"):
        found += textwrap.wrap(line, width - len(head)) or [""]
    return [(head if place == 0 else " " * len(head)) + line for place, line in enumerate(found)]
