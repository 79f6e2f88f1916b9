"""What a page says of the tuned model itself: training, costs of tokens, LM head, adapters, padding."""

from __future__ import annotations

from collections.abc import Sequence

from jaxlv.report.figures import anatomy as figures
from jaxlv.report.figures.evaluation import loss_figure
from jaxlv.report.format import number, percent
from jaxlv.report.parts import Part, Picture, Tree
from jaxlv.report.table import Table
from jaxlv.report.tables import analyses as tables

NAMED = 12  # positive tokens that a sentence names


def training_part(part: Tree) -> Part:
    """How training went: losses, norms of gradients, and the share of clipped steps."""
    words = f"The loss of the first logged step is {number(part['first_loss'])} nats per token, of the last"
    words += f" {number(part['last_loss'])}."
    if part["best_validation_loss"] is not None:
        words += (
            f" On held-out windows the least is {number(part['best_validation_loss'])},"
            f" at step {part['best_validation_step']:,}."
        )
    content: list[Picture | Table] = [
        Picture(
            "loss", loss_figure(part["records"]), "Loss curves of the training",
            "Cross-entropy per real token by training step, on the training batch and on held-out windows.",
        )
    ]  # fmt: skip
    if part["ratio"]:
        least, share = part["ratio"]["least"], part["share_clipped"]
        clipped = (
            f"Norms above {number(part['clip_norm'])} are clipped: {percent(share)} % of the logged steps."
            if part["clip_norm"]
            else "This run does not clip."
        )
        caption = (
            "Norm of the gradient over all that trains, before and after clipping, and the ratio of the two. "
            f"{clipped} The ratio is {number(least, of_one=True)} at least and"
            f" {number(part['ratio']['median'], of_one=True)} in the median; the report xu gives 0.8 to 1.0 as"
            " typical of its own runs."
        )
        content.append(Picture("gradient_norms", figures.norm_figure(part), "Gradient norms of the training", caption))
    return Part("Training", words, content)


def tokens_part(part: Tree) -> Part:
    """What tokens of held-out text cost, by their kind and time step, in nats."""
    name, first = next(iter(part.items()))
    costly, share = max(first["by_kind"].items(), key=lambda item: item[1]["share_of_nats"])
    words = (
        f"A token of held-out text costs the {name} model {number(first['symbols']['nats'])} nats (95 % interval"
        f" {_interval(first['symbols']['nats_ci95'])}), a perplexity of {number(first['symbols']['perplexity'])}"
    )
    words += "".join(
        f"; the {other} one {number(costs['symbols']['nats'])} ({_interval(costs['symbols']['nats_ci95'])})"
        for other, costs in part.items()
        if other != name
    )
    words += f". Of all nats {percent(share['share_of_nats'])} % are spent on the {costly}."
    scale = "" if first["headroom"] is None else f" with {100 * first['headroom']:g} % head-room"
    return Part(
        "Cost of a token",
        words,
        [
            Picture(
                "token_costs", figures.kind_figure(part), "Nats per token by kind of token",
                "Nats per token by its kind, over the 13 symbols.",
            ),
            Picture(
                "token_costs_by_step", figures.token_step_figure(part), "Nats per token by time step of the series",
                "Nats per token by the time step it stands in: median over series, and from 10 to 90 % of them for the"
                f" {name} model. The dashed line ends the steps that the scale is fitted on{scale}.",
            ),
            tables.token_table(part),
        ],
    )  # fmt: skip


def _interval(ends: Sequence[float]) -> str:
    return f"{number(ends[0])} to {number(ends[1])}"


def head_part(part: Tree) -> Part:
    """What training changed in the LM head."""
    if part["kind"] == "frozen":
        return Part("LM head", part["sentence"], [])
    what = "bias" if part["kind"] == "bias" else "change of a row of the weight"
    text = f"Of {part['entries']:,} entries {part['moved']:,} moved"
    if part["kind"] == "bias":
        text += f", {part['positive']:,} are positive and {part['negative']:,} negative; the median is"
        text += f" {number(part['median'])}. {_against(part)}"
    else:
        text += f"; the median norm of a row’s change is {number(part['median'])}, the largest {number(part['greatest'])}."
    return Part(
        "LM head",
        text,
        [
            Picture(
                "head_largest", figures.largest_figure(part), "The largest entries of the LM head’s change",
                f"The {len(part['largest'])} largest entries of the {what}, with the text of their tokens.",
            ),
            Picture(
                "head_histogram", figures.head_histogram_figure(part), "Histogram of the LM head’s change",
                f"All {part['entries']:,} entries of the {what} by size, logarithmic; the 13 symbols are marked below.",
            ),
            tables.head_table(part),
        ],
    )  # fmt: skip


def _against(part: Tree) -> str:
    """How the positive tokens compare with those of the report."""
    found, entries = part["against_report"], part["positive_tokens"]
    here = " ".join(figures.token_words(entry) for entry in entries[:NAMED]) or "none"
    more = f" and {part['positive'] - NAMED:,} more" if part["positive"] > NAMED else ""
    verdict = "the same" if found["same"] else f"{len(found['both'])} of them are positive here too"
    return (
        f"Positive here: {here}{more}. The report {found['report']} found exactly {len(found['positive'])} positive"
        f" ({' '.join(found['positive'])}), and a median of {number(found['median'])}, in Qwen2.5-0.5B: {verdict}."
    )


def spectra_part(part: Tree) -> Part:
    """The singular values of the adapters' updates."""
    layers = len({entry["layer"] for entry in part["projections"]})
    return Part(
        "Adapters",
        part["sentence"],
        [
            Picture(
                "effective_rank", figures.heatmap_figure(part, "effective_rank"), "Effective rank by layer and projection",
                f"Effective rank of scale × BA, of {part['rank']} at most, by layer and projection.",
            ),
            Picture(
                "relative_norm", figures.heatmap_figure(part, "relative_norm", 0.01), "Size of the change by projection",
                "Frobenius norm of scale × BA in % of that of the frozen weight, by layer and projection.",
            ),
            Picture(
                "spectra", figures.spectrum_figure(part), "Singular values of the adapters",
                f"Singular values of scale × BA over the largest, by projection: each of {layers} layers thin, their median"
                " thick; logarithmic.",
            ),
            tables.spectra_table(part),
        ],
    )  # fmt: skip


def padding_part(part: Tree) -> Part:
    """Whether padding on either side changes logits."""
    cases = {case["name"]: case for case in part["cases"]}
    sides = [cases[side] for side in ("left", "right")]
    equal = "are the same" if all(case["within"] for case in sides) else "differ by more than rounding"
    behind, seen = cases["right, next token read behind the padding"], cases["left, padding read as text"]
    shifted = cases["left, positions count the padding"]
    text = (
        f"Logits of the real tokens {equal} without padding and with it on either side: at most"
        f" {number(max(case['difference'] for case in sides))} apart, where {number(part['bound'])} is rounding. A shift of"
        f" all positions moves them by {number(shifted['difference'])} at most: rotary positions are relative. Padding that"
        f" is read as text moves them by {number(seen['difference'])}. A next token that is read behind the padding on the"
        f" right must be a digit, and gives digits {percent(behind['digit'])} % of its probability instead of"
        f" {percent(cases['no padding']['digit'])} %: the failure that the report mao describes under right padding."
    )
    return Part("Padding", text, [tables.padding_table(part)])
