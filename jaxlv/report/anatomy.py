"""What a page says of the tuned model itself: training, costs of tokens, LM head, adapters, padding."""

from __future__ import annotations

from collections.abc import Mapping

from jaxlv.report.figures import analyses as figures
from jaxlv.report.figures.evaluation import loss_figure
from jaxlv.report.format import count, number, percent
from jaxlv.report.page import Block, Section, figure
from jaxlv.report.table import NAME, Table, words
from jaxlv.results import anatomy as results
from jaxlv.results.record import Interval

NAMED = 12  # positive tokens that a sentence names


def training(part: results.Training) -> Section:
    """Returns how training went: losses, norms of gradients, and the share of clipped steps."""
    text = f"The loss of the first logged step is {number(part.first_loss)} nats per token, of the last"
    text += f" {number(part.last_loss)}."
    if part.best_validation_loss is not None:
        text += f" On held-out windows the least is {number(part.best_validation_loss)},"
        text += f" at step {count(part.best_validation_step)}."
    held_out = " and on held-out windows" if part.best_validation_loss is not None else ""
    caption = f"Loss: cross-entropy per real token by training step, on the training batch{held_out}."
    if any(one.forecast_mae is not None for one in part.records):
        caption += " Forecast MAE: on validation series, during training."
    if part.constant_rate is not None:
        caption += f" The learning rate is {part.constant_rate:g} throughout."
    drawing = loss_figure([one.tree() for one in part.records])
    content = [figure(drawing, "Loss curves of the training", caption, name="loss")]
    if part.ratio:
        clipped = f"Norms above {number(part.clip_norm)} are clipped: {percent(part.share_clipped)} % of the logged steps."
        caption = (
            "Norm of the gradient over all that trains, before and after clipping, and the ratio of the two."
            f" {clipped if part.clip_norm else 'This run does not clip.'} The ratio is"
            f" {number(part.ratio.least, of_one=True)} at least and {number(part.ratio.median, of_one=True)} in the median;"
            " the report xu gives 0.8 to 1.0 as typical of its own runs."
        )
        content.append(figure(figures.norm_figure(part), "Gradient norms of the training", caption, name="gradient_norms"))
    return Section("Training", content, text)


def tokens(part: Mapping[str, results.TokenCosts]) -> Section:
    """Returns what tokens of held-out text cost, by their kind and time step, in nats."""
    name, first = next(iter(part.items()))
    costly, share = max(first.by_kind.items(), key=lambda item: item[1].share_of_nats or 0)
    text = f"A token of held-out text costs the {name} model {number(first.symbols.nats)} nats (95 % interval"
    text += f" {_ends(first.symbols.nats_ci95)}), a perplexity of {number(first.symbols.perplexity)}"
    for other, costs in list(part.items())[1:]:
        text += f"; the {other} one {number(costs.symbols.nats)} ({_ends(costs.symbols.nats_ci95)})"
    text += f". Of all nats {percent(share.share_of_nats)} % are spent on the {costly}."
    scale = "" if first.headroom is None else f" with {100 * first.headroom:g} % head-room"
    kinds, drawing = "Nats per token by its kind, over the 13 symbols.", figures.token_step_figure(part)
    steps = (
        "Nats per token by the time step it stands in: median over series, and from 10 to 90 % of them for the"
        f" {name} model. The dashed line ends the steps that the scale is fitted on{scale}."
    )
    content: list[Block] = [
        figure(figures.kind_figure(part), "Nats per token by kind of token", kinds, name="token_costs"),
        figure(drawing, "Nats per token by time step of the series", steps, name="token_costs_by_step"),
        _token_table(part),
    ]
    return Section("Cost of a token", content, text)


def _ends(interval: Interval | None) -> str:
    return " to ".join(map(number, interval or (None, None)))


def _token_table(part: Mapping[str, results.TokenCosts]) -> Table:
    """Returns tokens of each kind and window: count, nats and perplexity of each model, and the share of all its nats."""
    name, first = next(iter(part.items()))
    rows = {kind: {model: costs.parts.get(kind) for model, costs in part.items()} for kind in first.parts}
    tokens, share = results.TokenShare.columns("tokens", "share_of_nats")
    nats, perplexity = results.Nats.columns("nats", "perplexity")
    columns = [NAME, tokens.within(name)]
    for model in part:
        columns += [nats.within(model, softmax, head=softmax, group=model) for softmax in ("vocabulary", "symbols")]
        columns += [perplexity.within(model, "symbols", group=model), share.within(model, group=model)]
    caption = (
        f"Cost of a token in nats, over {len(first.series)} whole series, each token given all before it; padding never"
        " counts. Vocabulary: by the softmax over all tokens; symbols: over the 13 of the number format, as constrained"
        " decoding draws them; perplexity: e to the power of that; share: of all nats, by symbols."
    )
    return Table("Cost of tokens", caption, rows, columns)


def head(part: results.Head) -> Section:
    """Returns what training changed in the LM head."""
    if part.sentence:
        return Section("LM head", [], part.sentence)
    what = "bias" if part.kind == "bias" else "change of a row of the weight"
    text = f"Of {part.entries:,} entries {part.moved:,} moved"
    if part.kind == "bias":
        text += f", {part.positive:,} are positive and {part.negative:,} negative; the median is {number(part.median)}."
        text += _against(part)
    else:
        text += f"; the median norm of a row’s change is {number(part.median)}, the largest {number(part.greatest)}."
    largest = f"The {len(part.largest)} largest entries of the {what}, with the text of their tokens."
    sizes = f"All {part.entries:,} entries of the {what} by size, logarithmic; the 13 symbols are marked below."
    caption = f"The entries of the 13 symbols, and their places among all {part.entries:,}, the largest first."
    columns = [words("name", "symbol"), *results.SymbolEntry.columns("id", "value", "rank")]
    content: list[Block] = [
        figure(figures.largest_figure(part), "The largest entries of the LM head’s change", largest, name="head_largest"),
        figure(figures.head_histogram_figure(part), "Histogram of the LM head’s change", sizes, name="head_histogram"),
        Table("The 13 symbols", caption, part.symbols, columns),
    ]
    return Section("LM head", content, text)


def _against(part: results.Head) -> str:
    """Returns how the positive tokens compare with those of a paper."""
    found = part.against_report
    here = " ".join(entry.label for entry in part.positive_tokens[:NAMED]) or "none"
    more = f" and {part.positive - NAMED:,} more" if part.positive > NAMED else ""
    if found is None:
        return f" Positive here: {here}{more}."
    verdict = "the same" if found.same else f"{len(found.both)} of them are positive here too"
    return (
        f" Positive here: {here}{more}. The report {found.report} found exactly {len(found.positive)} positive"
        f" ({' '.join(found.positive)}), and a median of {number(found.median)}, in Qwen2.5-0.5B: {verdict}."
    )


def spectra(part: results.Spectra) -> Section:
    """Returns the singular values of the adapters' updates."""
    layers = len({one.layer for one in part.projections})
    ranks = f"Effective rank of scale × BA, of {part.rank} at most, by layer and projection."
    sizes = "Frobenius norm of scale × BA in % of that of the frozen weight, by layer and projection."
    values = (
        f"Singular values of scale × BA over the largest, by projection: each of {layers} layers thin, their median thick;"
        " logarithmic."
    )
    columns = results.ProjectionSpread.columns("matrices")
    for key, group in {"effective_rank": "effective rank", "stable_rank": "stable rank", "first_share": "first"}.items():
        form = "share" if key == "first_share" else "number"
        own = results.Spread.columns("median", "least", "greatest")
        columns += [one.within(key, group=group, form=form) for one in own]
    columns += [one.within("relative_norm", group="size", form="share") for one in results.Spread.columns("median")]
    caption = (
        f"The change scale × BA of each adapted weight, rank {part.rank}: median and range over layers. Effective rank: e to"
        " the entropy of the singular values’ shares; stable rank: sum of squares over the largest square; first: share of"
        " the squared norm in the largest direction; size: norm of the change over that of the frozen weight."
    )
    rank, size = figures.heatmap_figure(part, "effective_rank"), figures.heatmap_figure(part, "relative_norm", 0.01)
    content: list[Block] = [
        figure(rank, "Effective rank by layer and projection", ranks, name="effective_rank"),
        figure(size, "Size of the change by projection", sizes, name="relative_norm"),
        figure(figures.spectrum_figure(part), "Singular values of the adapters", values, name="spectra"),
        Table("Adapter spectra", caption, part.spreads, [NAME, *columns]),
    ]
    return Section("Adapters", content, part.sentence)


def padding(part: results.Padding) -> Section:
    """Returns whether padding on either side changes logits."""
    sides = [part.case("left"), part.case("right")]
    equal = "are the same" if all(case.within for case in sides) else "differ by more than rounding"
    apart, bound = number(max(case.difference or 0 for case in sides)), number(part.bound)
    behind, alone = part.case("right, next token read behind the padding"), part.case("no padding")
    moved, seen = (part.case(f"left, {way}") for way in ("positions count the padding", "padding read as text"))
    text = (
        f"Logits of the real tokens {equal} without padding and with it on either side: at most {apart} apart, where {bound}"
        f" is rounding. A shift of all positions moves them by {number(moved.difference)} at most: rotary positions are"
        f" relative. Padding that is read as text moves them by {number(seen.difference)}. A next token that is read behind"
        f" the padding on the right must be a digit, and gives digits {percent(behind.digit)} % of its probability instead"
        f" of {percent(alone.digit)} %: the failure that the report mao describes under right padding."
    )
    lengths = " and ".join(map(str, part.prompts))
    caption = (
        f"Prompts of {lengths} tokens, padded to {part.padded_to}, {part.dtype}. Difference: the largest of a logit at a"
        f" real token from the same without padding ({part.logits_compared:,} logits at each; the largest logit is"
        f" {number(part.largest_logit)}); within: at most {bound}, what the order of summation may change. Next token: total"
        " variation distance of its distribution behind the prompt from that without padding, and the probability of a"
        " digit, which must come there."
    )
    columns = [NAME, *results.PaddedCase.columns("difference", "within", "distance", "digit")]
    return Section("Padding", [Table("Padding", caption, part.cases, columns)], text)
