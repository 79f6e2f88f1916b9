"""jaxlv as a model of lm-evaluation-harness, beside the harness's own backend on the same random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlv
from jaxlv.errors import JaxlvError
from jaxlv.model import weights
from jaxlv.runs import billing, run

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lm_eval", reason="needs jaxlv[harness]")
pytest.importorskip("transformers", reason="needs jaxlv[test]")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from jaxlv.integrations import harness
from jaxlv.integrations.harness import JaxlvLM, before_and_after, measure
from tests.programs import jaxlv as jaxlv_program
from tests.test_probe import CHATML, DEFAULTS, TEXT, save_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 32, "head_dim": 8, "num_hidden_layers": 2, "max_position_embeddings": 256}
PAIRS = [
    ("The fox ", " runs"), ("", "é hares"), ("a\n", "b c"), ("x" * 300, "yz" * 5), ("1 + 1 =", " 2"), ("1 + 1 =", " 3"),
    ("<|im_start|>user\n", "hi<|im_end|>"), ("one", "z"),
]  # fmt: skip
TEXTS = ["", "short", TEXT * 6, "🐇"]
CONTEXTS = ["The fox ", "hares and foxes", "Q: 1 + 1?\nA:"]
TASKS = {
    "choice": """
task: jaxlv_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "words": """
task: jaxlv_words
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n", "\\\\"], max_gen_toks: 80, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "text": """
task: jaxlv_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}} {{choices[1]}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
}
SOURCE = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}}}}}\ntest_split: test\n"


@pytest.fixture(scope="module")
def base(random_model, tmp_path_factory) -> Path:
    """A random model whose tokens are bytes, with a chat template and a repetition penalty."""
    folder = tmp_path_factory.mktemp("bases") / "bytes"
    weights.save_pretrained(folder, *random_model(vocab_size=264, **SIZES))
    save_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps(DEFAULTS))
    return folder


@pytest.fixture(scope="module")
def ours(base) -> JaxlvLM:
    return JaxlvLM(str(base), batch_size=3)


@pytest.fixture(scope="module")
def theirs(base) -> Any:
    """The harness's own backend, on PyTorch."""
    pytest.importorskip("torch", reason="the harness's own backend needs PyTorch").set_num_threads(1)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(base), device="cpu", dtype="float32", batch_size=3)


@pytest.fixture(scope="module")
def tuned(base, waves, tmp_path_factory) -> Path:
    """A run of two steps on that base, under a budget."""
    forecaster = jaxlv.Forecaster(str(base), progress=False)
    settings = (
        "windows.length=64",
        "train.batch_size=1",
        "lora.rank=2",
        "optimizer.warmup_steps=0",
        "optimizer.learning_rate=0.1",
    )
    settings += ("budget.flops=10000000000000",)
    forecaster.fit(waves(4, 24), holdout=4, steps=2, out=tmp_path_factory.mktemp("runs") / "run", settings=settings)
    return Path(str(forecaster.model))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with three tasks on one file of questions."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"How many are {n} hares and {n} foxes?", "choices": [f"{n}", f"{2 * n}"], "answer": 1}
        for n in range(6)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text + SOURCE.format(path=folder / "questions.jsonl"))
    return folder


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=place) for place, one in enumerate(arguments)]


def test_log_likelihoods_are_those_of_the_hf_backend(ours, theirs):
    asked = requests("loglikelihood", PAIRS)
    found, known = ours.loglikelihood(asked), theirs.loglikelihood(asked)
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in known], rtol=0, atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in known]


def test_what_is_written_greedily_is_greedy(ours):
    written = ours.generate_until(
        requests("generate_until", [(one, {"max_gen_toks": 1, "repetition_penalty": 1.0}) for one in CONTEXTS])
    )
    pairs = [(context, text) for context, text in zip(CONTEXTS[1:], written[1:], strict=True)]
    assert all(len(text) == 1 for _, text in pairs)
    assert [greedy for _, greedy in ours.loglikelihood(requests("loglikelihood", pairs))] == [True, True]


def test_texts_longer_than_the_model_reads_have_the_log_likelihood_of_the_hf_backend(ours, theirs):
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    found, known = ours.loglikelihood_rolling(asked), theirs.loglikelihood_rolling(asked)
    tokens = [max(len(ours.tok_encode(text)), 1) for text in TEXTS]
    assert max(tokens) > 2 * ours.max_length and found[0] == 0
    np.testing.assert_allclose(np.divide(found, tokens), np.divide(known, tokens), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"until": ["\n"], "max_gen_toks": 100, "do_sample": False},
        {"until": "e", "max_new_tokens": 70, "temperature": 0.0, "repetition_penalty": 1.0},
        {"until": [], "max_gen_toks": 40, "repetition_penalty": 1.4},
        {},
    ],
)
def test_greedy_texts_are_those_of_the_hf_backend(ours, theirs, how):
    more = how if how else {"until": ["<|endoftext|>"], "max_gen_toks": 20}
    asked = requests("generate_until", [(context, more) for context in CONTEXTS])
    found = ours.generate_until(asked)
    assert found == theirs.generate_until(asked) and any(found)


def test_a_context_that_is_too_long_keeps_its_end(ours, theirs):
    asked = requests("generate_until", [("x" * 300 + "abc", {"max_gen_toks": 30, "until": []})])
    assert ours.generate_until(asked) == theirs.generate_until(asked)


def test_conversations_are_written_as_by_the_hf_backend(ours, theirs):
    history = [
        {"role": "system", "content": "Short."}, {"role": "user", "content": "Hi {{ 1 }} é"},
        {"role": "assistant", "content": " Hello "},
    ]  # fmt: skip
    for messages, answer in ((history[:2], True), (history, False), (history, True)):
        assert ours.apply_chat_template(messages, answer) == theirs.apply_chat_template(messages, answer)
    assert CHATML and ours.tokenizer_name == JaxlvLM(str(ours.words.tokenizer.folder)).tokenizer_name


@pytest.mark.slow
def test_the_tasks_of_a_local_folder_give_the_same_metrics(base, ours, theirs, tasks):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    names = ["jaxlv_choice", "jaxlv_words", "jaxlv_text"]
    found = measure(ours, names, include=tasks)
    manager = TaskManager(include_path=str(tasks))
    known = simple_evaluate(theirs, tasks=names, task_manager=manager, log_samples=False, bootstrap_iters=0)["results"]
    figures = {(task, name) for task, row in known.items() for name, value in row.items() if isinstance(value, float)}
    assert {name.partition(",")[0] for _, name in figures} >= {"acc", "exact_match", "byte_perplexity"}
    for task, name in figures:
        np.testing.assert_allclose(float(found[task][name]), float(known[task][name]), rtol=1e-5, err_msg=f"{task} {name}")
    limited = before_and_after(str(base), "jaxlv_choice", include=tasks, limit=2, batch_size=2)
    assert list(limited) == ["untuned"] and limited["untuned"]["jaxlv_choice"]["sample_len"] == 2


@pytest.mark.slow
def test_the_tasks_tell_a_tuned_run_from_its_base(tuned, base, tasks):
    found = before_and_after(str(tuned), ["jaxlv_text"], include=tasks, limit=3)
    before, after = (found[name]["jaxlv_text"]["bits_per_byte,none"] for name in ("untuned", "tuned"))
    known = measure(str(base), "jaxlv_text", include=tasks, limit=3)["jaxlv_text"]["bits_per_byte,none"]
    assert before == pytest.approx(known, rel=1e-5) and after != pytest.approx(before, rel=1e-4)


def test_a_run_is_measured_after_and_before_tuning_and_pays(tuned, base, ours):
    asked = requests("loglikelihood", PAIRS)
    finished = run.load_run(tuned)

    def spent() -> int:
        with billing.ledger_of(finished.config, tuned, finished.tuned.model) as book:
            assert book is not None
            return book.totals().executed

    def nats(lm: JaxlvLM) -> np.ndarray:
        return np.array([one for one, _ in lm.loglikelihood(asked)])

    begun = spent()
    after = nats(JaxlvLM(str(tuned)))
    paid = spent()
    with finished.metered() as models:
        before, again = (nats(JaxlvLM(models[name], tokenizer=base)) for name in ("untuned", "tuned"))
    assert begun < paid < spent()
    np.testing.assert_allclose(before, nats(ours), rtol=0, atol=1e-4)
    np.testing.assert_allclose(again, after, rtol=0, atol=1e-4)
    assert np.abs(after - before).max() > 0.01


def test_qwen_s_own_files_say_how_texts_begin_and_end(shared):
    transformers = pytest.importorskip("transformers")
    folder = shared / "qwen2.5-0.5b-instruct"
    words, known = harness.Words(folder, 151_936), transformers.AutoTokenizer.from_pretrained(folder)
    settings = transformers.GenerationConfig.from_pretrained(folder)
    assert words.begin == words.end == known.eos_token_id and known.bos_token_id is None
    assert words.ends == set(settings.eos_token_id) and words.penalty == settings.repetition_penalty
    assert words.special("<|im_start|>") == known.convert_tokens_to_ids("<|im_start|>") and words.special("a") is None


def test_the_harness_finds_it_by_name_and_reads_its_arguments(base):
    made = get_model("jaxlv").create_from_arg_string(f"pretrained={base},max_length=64", {"batch_size": 2, "device": None})
    assert isinstance(made, JaxlvLM) and (made.max_length, made.batch_size) == (64, 2)


def test_drawn_texts_follow_the_seed(base):
    asked = requests(
        "generate_until", [("The fox", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 130, "until": []})]
    )
    one, same, other = (JaxlvLM(str(base), seed=seed).generate_until(asked) for seed in (0, 0, 1))
    assert one == same != other
    assert one[0][:60] != one[0][64:124]  # each block of tokens has random numbers of its own


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"revision": "main"}, "unknown argument revision"),
        ({"batch_size": "auto"}, "not a batch size"),
        ({"max_length": 1000}, "not a length"),
        ({"pretrained": "embedded"}, "cannot write plain text"),
    ],
)
def test_what_it_cannot_do_is_refused(base, given, words):
    with pytest.raises(JaxlvError, match=words):
        JaxlvLM(**{"pretrained": str(base), **given})


def test_another_way_to_draw_is_refused(ours):
    for how in ({"num_beams": 4}, {"typical_p": 0.9}, {"max_gen_toks": 256}):
        with pytest.raises(JaxlvError, match=r"another way to draw|nothing that can be continued"):
            ours.generate_until(requests("generate_until", [("x", how)]))
    assert harness.ANSWER == 256


def test_the_program_measures_tasks_and_keeps_nothing_if_they_cannot_run(base, tasks, tmp_path):
    command = ["probe", base, "--max-new-tokens", 4, "--task-folder", tasks, "--out", tmp_path / "out"]
    wrong = jaxlv_program(*command, "--tasks", "jaxlv_choise")
    assert wrong.code == 2 and wrong.err.splitlines()[-1].startswith("jaxlv: jaxlv_choise: no task of that name")
    assert "did you mean jaxlv_choice?" in wrong.err
    (tasks / "lost.yaml").write_text(TASKS["text"].replace("_text", "_lost") + SOURCE.format(path=tmp_path / "gone.jsonl"))
    lost = jaxlv_program(*command, "--tasks", "jaxlv_lost")
    assert lost.code == 2 and "jaxlv_lost: the harness cannot run these tasks" in lost.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    done = jaxlv_program(*command, "--tasks", "jaxlv_choice", "--limit", 2)
    assert done.code == 0, done.err
    assert "jaxlv_choice: acc_norm_stderr" in done.out and (tmp_path / "out" / "report.html").is_file()
    found = json.loads((tmp_path / "out" / "tasks.json").read_text())["untuned"]["jaxlv_choice"]
    assert found == pytest.approx(measure(str(base), "jaxlv_choice", include=tasks, limit=2)["jaxlv_choice"])
