"""Samples several continuations of one series in jaxlv and in PyTorch (transformers): generated tokens/s.

    python -m benchmarks.generate [--shapes full,tiny,micro] [--device cuda --dtype bfloat16]

One prompt of 512 tokens has 1 or 8 samples of exactly 128 tokens each, at temperature 1. jaxlv runs over the whole
vocabulary, as transformers does, and over the 13 symbols of the number format, masked by its grammar, so that every sample
parses, as `jaxlv forecast` does by default: with the guesses that pay for so many rows, and without any. Times include the
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import common, side
from benchmarks.common import SHAPES, Case
from benchmarks.side import Work

SAMPLES, PROMPT, NEW = (1, 8), 512, 128


def _case(shape: str, samples: int) -> Case:
    prompt, new = (32, 8) if shape == "smoke" else (PROMPT, NEW)
    work = f"{samples} x ({prompt} + {new})"
    return Case(shape, work, samples * new, {"samples": samples, "prompt": prompt, "new": new})


CASES = [_case(shape, samples) for shape in SHAPES for samples in ((8,) if shape == "smoke" else SAMPLES)]


def jaxlv_samples(settings: dict[str, Any], constrained: bool, guesses: bool = True) -> Work:
    """Prepares the decoding that `jaxlv forecast` runs, with or without the number grammar and guesses."""
    device, model, params, facts = side.start_jax(settings)
    import numpy as np

    from jaxlv.config import SamplingConfig
    from jaxlv.steps.generate import Decoding, generate, loop_of
    from jaxlv.steps.prompts import Prompts
    from jaxlv.text.grammar import number_grammar
    from jaxlv.text.tokens import Alphabet

    alphabet = Alphabet(np.array(side.SYMBOL_IDS, np.int32) % settings["vocabulary"], (), "benchmark")
    grammar = number_grammar(variables=2, decimals=2, integer_digits=2) if constrained else None
    prompt_P = side.random_ids(settings["prompt"], vocabulary=settings["vocabulary"])
    seeds = iter(range(1_000_000))

    prompts, how = Prompts([prompt_P]), Decoding(settings["samples"], settings["new"], SamplingConfig(grammar=constrained))
    loop = loop_of(how.new_tokens, how.samples, grammar if guesses else None)

    def run() -> None:
        made = generate(model, {"params": params}, prompts, alphabet, how, next(seeds), grammar, loop)
        assert (made.lengths_SN == settings["new"]).all()

    return side.jax_work(device, run, facts)


def torch_samples(settings: dict[str, Any]) -> Work:
    """Prepares the same by transformers' generate with its cache, which computes the prompt once per sample."""
    torch, model, facts = side.start_torch(settings)
    prompt_P = side.random_ids(settings["prompt"], vocabulary=settings["vocabulary"])
    ids_1P = torch.tensor(prompt_P[None], dtype=torch.int64, device=settings["device"])
    model.eval()
    model.generation_config.eos_token_id = None

    def run() -> None:
        out = model.generate(
            ids_1P,
            attention_mask=torch.ones_like(ids_1P),
            do_sample=True,
            num_return_sequences=settings["samples"],
            max_new_tokens=settings["new"],
            use_cache=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )
        assert out.shape == (settings["samples"], settings["prompt"] + settings["new"])

    return side.torch_work(torch, settings, run, facts)


SIDES = {
    "torch": torch_samples,
    "jaxlv, whole vocabulary": lambda settings: jaxlv_samples(settings, constrained=False),
    "jaxlv, number grammar": lambda settings: jaxlv_samples(settings, constrained=True),
    "jaxlv, number grammar, without guesses": lambda settings: jaxlv_samples(settings, constrained=True, guesses=False),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; see `--help`."""
    common.main("benchmarks.generate", common.parser(str(__doc__), "full,tiny,micro"), SIDES, CASES, argv)


if __name__ == "__main__":
    main()
