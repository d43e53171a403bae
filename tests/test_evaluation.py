"""`bonsai eval`: models side by side on the same text and questions, with honest errors."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Listener, Pico, optional, with_token_beyond
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from bonsai_core import (
    AdaptConfig,
    Answers,
    BonsaiError,
    EvalConfig,
    Registry,
    RunConfig,
    adapt,
    evaluate,
    load_model,
    run,
)
from bonsai_core.cli.main import cli
from bonsai_core.evaluation.choices import TaskScore
from bonsai_core.evaluation.speed import Generations, generation_memory, generation_speeds
from bonsai_core.events import EvaluationStarted, Event, TokensDone, Warned
from bonsai_core.sources import draw_questions, read_rows

needs_harness = optional(find_spec("lm_eval"), "lm-evaluation-harness is optional")
QUESTIONS: list[dict[str, Any]] = [
    {"question": "What is a list?", "choices": ["a sequence", "a number of small dogs"], "gold": 0},
    {"question": "What is a set?", "choices": ["a number", "a collection", "a dog"], "gold": 1},
    {"question": "What is an int?", "choices": ["a sequence", "a number", "a dog"], "gold": 1},
    {"question": "What is a dict?", "choices": ["a mapping", "a number", "a dog"], "gold": 0},
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "types.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return path


@pytest.fixture(scope="module")
def pruned(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pruned"
    return run(small_run.model_copy(update={"out": out, "latency": False}), registry=registry).directory


def measured(small_run: RunConfig, models: Sequence[Path | str], **settings: Any) -> tuple[dict[str, Any], list[Event]]:
    base = {"dataset": small_run.eval_dataset, "eval_samples": 2, "eval_sequence_length": 64, "device": "cpu"}
    config = EvalConfig.model_validate({**base, "models": [str(model) for model in models], **settings})
    registry, listener = Registry(), Listener()
    registry.register(listener, "a test")
    return evaluate(config, registry=registry), listener.events


def test_the_dense_model_is_beside_the_pruned_and_the_adapted_one(
    small_run: RunConfig, registry: Registry, pruned: Path, tmp_path: Path
) -> None:
    settings = {"steps": 2, "batch_size": 2, "sequence_length": 32, "evaluations": 1, "device": "cpu"}
    adapted = adapt(AdaptConfig(model=str(pruned), out=tmp_path / "adapted", **settings), registry=registry)
    found, events = measured(small_run, [pruned, adapted.directory])
    dense, small, recovered = found["models"]
    report = json.loads((pruned / "report.json").read_text())
    assert dense["dense"]
    assert [dense["model"], small["model"]] == [small_run.model, str(pruned)]
    assert dense["perplexity"] == pytest.approx(report["perplexity"]["dense"], rel=1e-6)
    assert small["perplexity"] == pytest.approx(report["perplexity"]["pruned"], rel=1e-6)
    assert small["parameters"] == recovered["parameters"] == report["parameters"]["pruned"]
    assert small["weight_bytes"] == report["weight_bytes"]["pruned"]
    assert recovered["perplexity"] != small["perplexity"]
    started = next(event.forward_tokens for event in events if isinstance(event, EvaluationStarted))
    assert started == sum(event.tokens for event in events if isinstance(event, TokensDone))


def test_it_can_be_left_out_or_named(small_run: RunConfig, pruned: Path, pico_directory: Path) -> None:
    assert len(measured(small_run, [pruned], dense="none")[0]["models"]) == 1
    named, _ = measured(small_run, [pruned / "model", pico_directory], dense=str(pico_directory))
    assert [model["dense"] for model in named["models"]] == [True, False]


def test_one_folder_by_two_names_is_one_model(
    small_run: RunConfig, pruned: Path, pico_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pico_directory.parent)
    found, _ = measured(small_run, [f"./{pico_directory.name}", pruned])
    assert [model["dense"] for model in found["models"]] == [True, False]
    by_run, _ = measured(small_run, [pico_directory], dense=str(pruned))
    assert [model["dense"] for model in by_run["models"]] == [True, False]


def test_where_none_is_known_it_says_so(small_run: RunConfig, pico_directory: Path) -> None:
    _, events = measured(small_run, [pico_directory])
    assert any(isinstance(event, Warned) and "--dense names one" in event.text for event in events)


def test_logits_that_the_model_makes_otherwise_are_refused(
    small_run: RunConfig, pico_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(pico_directory, tmp_path / "doubled")
    code = """from transformers import LlamaForCausalLM

class Doubled(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output
"""
    (tmp_path / "doubled" / "modeling_doubled.py").write_text(code)
    config = json.loads((tmp_path / "doubled" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_doubled.Doubled"}
    (tmp_path / "doubled" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BonsaiError, match="does something to its logits"):
        measured(small_run, [tmp_path / "doubled"], trust_remote_code=True)


def test_weights_of_different_types_are_told(small_run: RunConfig, pico_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(pico_directory, tmp_path / "half")
    load_model(str(pico_directory), device="cpu").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    found, events = measured(small_run, [pico_directory, tmp_path / "half"])
    assert [model["dtype"] for model in found["models"]] == ["float32", "bfloat16"]
    assert any(isinstance(event, Warned) and "different types" in event.text for event in events)


@pytest.mark.parametrize("gone", ["./gone", "an unfinished run", "~nobody-there"])
def test_a_dense_model_that_is_gone_stops_nothing(
    small_run: RunConfig, pruned: Path, tmp_path: Path, gone: str
) -> None:
    shutil.copytree(pruned / "model", tmp_path / "model")
    if gone == "an unfinished run":
        (tmp_path / "run").mkdir()
        shutil.copy(pruned / "config.yaml", tmp_path / "run")
        gone = str(tmp_path / "run")
    metadata = json.loads((tmp_path / "model/bonsai.json").read_text())
    (tmp_path / "model/bonsai.json").write_text(json.dumps({**metadata, "base_model": gone}))
    found, events = measured(small_run, [tmp_path / "model"])
    assert len(found["models"]) == 1
    assert any(isinstance(event, Warned) and f"{gone} is not beside them" in event.text for event in events)


def test_models_with_other_tokens_are_told_apart(
    small_run: RunConfig, pico_directory: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    Pico("llama", 2).build().save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path)
    _, events = measured(small_run, [pico_directory, tmp_path])
    assert any(isinstance(event, Warned) and "cannot be compared" in event.text for event in events)


class TestTasks:
    def test_scores_equal_those_of_whole_sequences(
        self, small_run: RunConfig, pico_directory: Path, tokenizer: PreTrainedTokenizerFast, questions: Path
    ) -> None:
        found, _ = measured(small_run, [pico_directory], tasks=str(questions), batch_size=3)
        model = load_model(str(pico_directory), device="cpu")
        right, right_norm = [], []
        for row in QUESTIONS:
            given = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
            scores = []
            for choice in row["choices"]:
                ids = torch.tensor(tokenizer(f"Question: {row['question']}\nAnswer: {choice}")["input_ids"])
                with torch.no_grad():
                    log_p = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
                scores.append(float(log_p.gather(-1, ids[1:, None])[len(given) - 1 :].sum()))
            right.append(int(np.argmax(scores)) == row["gold"])
            lengths = [len(choice.encode()) for choice in row["choices"]]
            right_norm.append(int(np.argmax(np.array(scores) / lengths)) == row["gold"])
        task = found["models"][0]["tasks"]["types"]
        assert task["questions"] == len(QUESTIONS)
        assert task["accuracy"] == np.mean(right)
        assert task["accuracy_norm"] == np.mean(right_norm)

    def test_errors_are_those_of_means_and_changes_are_paired(self) -> None:
        def answered(right: Sequence[bool]) -> list[Answers]:
            return [Answers(np.array([1.0, 0.0]), np.array([1, 1]), 0 if hit else 1) for hit in right]

        dense = TaskScore.of(answered([True] * 60 + [False] * 40))
        small = TaskScore.of(answered([True] * 50 + [False] * 50))
        described = small.describe(dense)
        assert described["accuracy"] == 0.5
        assert described["accuracy_stderr"] == pytest.approx(math.sqrt(0.5 * 0.5 / 99))
        assert described["accuracy_change"] == pytest.approx(-0.1)
        assert described["accuracy_change_stderr"] == pytest.approx(math.sqrt(0.1 * 0.9 / 99))

    def test_long_choices_lose_less_by_length(self) -> None:
        answers = [Answers(np.array([-4.0, -6.0]), np.array([2, 12]), 1)]
        score = TaskScore.of(answers)
        assert (score.right_Q[0], score.right_norm_Q[0]) == (False, True)
        assert score.describe(None)["accuracy_stderr"] is None

    def test_a_limit_draws_the_same_questions_for_all(
        self, small_run: RunConfig, pruned: Path, questions: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        found, _ = measured(small_run, [pruned], tasks=str(questions), limit=2)
        assert [model["tasks"]["types"]["questions"] for model in found["models"]] == [2, 2]
        assert "accuracy_change" in found["models"][1]["tasks"]["types"]
        rows = read_rows(str(questions))
        drawn = [
            draw_questions(rows, tokenizer, num_questions=2, seed=seed, draw=0, warn=print) for seed in (0, 0, 1, 2, 3)
        ]
        firsts = [[question.sequences[0].tolist() for question in one] for one in drawn]
        assert firsts[0] == firsts[1]
        assert any(firsts[0] != other for other in firsts[2:])

    def test_two_files_of_one_name_are_refused(self, small_run: RunConfig, pruned: Path, questions: Path) -> None:
        with pytest.raises(BonsaiError, match="two files of the same name"):
            measured(small_run, [pruned], tasks=f"{questions},elsewhere/{questions.name}")

    def test_a_missing_file_is_told(self, small_run: RunConfig, pruned: Path) -> None:
        with pytest.raises(BonsaiError, match=r"no file 'missing\.jsonl'.*question"):
            measured(small_run, [pruned], tasks="missing.jsonl")

    def test_the_work_adds_up(self, small_run: RunConfig, pruned: Path, questions: Path) -> None:
        _, events = measured(small_run, [pruned], tasks=str(questions))
        started = next(event.forward_tokens for event in events if isinstance(event, EvaluationStarted))
        assert started == sum(event.tokens for event in events if isinstance(event, TokensDone))

    def test_answers_that_are_not_finite_are_wrong(self) -> None:
        score = TaskScore.of([Answers(np.array([math.nan, math.nan]), np.array([1, 1]), 0)])
        assert not score.right_Q.any()
        assert not score.right_norm_Q.any()

    @pytest.mark.skipif(find_spec("lm_eval") is not None, reason="the harness is installed")
    def test_without_the_harness_its_tasks_say_how_to_get_it(self, small_run: RunConfig, pruned: Path) -> None:
        with pytest.raises(BonsaiError, match=r"bonsai-prune\[lm-eval\]"):
            measured(small_run, [pruned], tasks="arc_easy")

    @needs_harness
    @pytest.mark.filterwarnings("ignore")
    def test_the_harness_agrees_with_us(
        self, small_run: RunConfig, pruned: Path, questions: Path, tmp_path: Path
    ) -> None:
        write_task(questions, tmp_path / "ours.yaml")
        found, _ = measured(small_run, [pruned], tasks=f"{questions},ours", include_path=str(tmp_path))
        for model in found["models"]:
            assert model["lm_eval"]["ours"]["acc"] == pytest.approx(model["tasks"]["types"]["accuracy"])
            assert model["lm_eval"]["ours"]["acc_norm"] == pytest.approx(model["tasks"]["types"]["accuracy_norm"])

    @needs_harness
    @pytest.mark.filterwarnings("ignore")
    def test_the_harness_is_stopped_at_tokens_that_the_model_has_not(
        self, small_run: RunConfig, pico_directory: Path, tmp_path: Path
    ) -> None:
        model = with_token_beyond(pico_directory, tmp_path / "model")
        questions = tmp_path / "questions.jsonl"
        questions.write_text(json.dumps({"question": "Which <tool>?", "choices": ["one", "two"], "gold": 0}) + "\n")
        write_task(questions, tmp_path / "ours.yaml")
        with pytest.raises(BonsaiError, match=r"512 embedding rows: '<tool>' \(512\)"):
            measured(small_run, [model], tasks="ours", include_path=str(tmp_path))


def write_task(questions: Path, file: Path) -> None:
    """The harness's way of describing a task of our kind."""
    file.write_text(
        f"task: ours\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {questions}}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "Question: {{question}}\\nAnswer:"\n'
        'doc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )


class TestSpeed:
    def test_every_model_is_timed_at_every_batch(self, small_run: RunConfig, pruned: Path) -> None:
        found, _ = measured(
            small_run, [pruned], speed=True, speed_batches="1,3", prompt_tokens=8, new_tokens=3, speed_repeats=1
        )
        for model in found["models"]:
            assert list(model["speed"]) == list(model["memory"]) == ["1", "3"]
            for batch, row in model["speed"].items():
                assert row["prefill_tokens_per_s"] == pytest.approx(int(batch) * 8 / row["prefill_s"])
                assert row["decode_tokens_per_s"] == pytest.approx(int(batch) / row["decode_s"])

    def test_models_take_turns_and_generate_what_was_asked(self) -> None:
        calls: list[tuple[str, int, int]] = []
        generation_speeds([Fake("a", calls), Fake("b", calls)], Generations((2,), 4, 5, 2), print)
        a, b = ("a", 2, 6), ("b", 2, 6)
        assert calls == [a, b, b, a, a, b]

    def test_prompts_are_the_same_for_all_models_and_others_at_each_turn(self) -> None:
        prompts: dict[str, list[list[list[int]]]] = {"a": [], "b": []}
        for name, seen in prompts.items():
            generation_speeds([Fake(name, [], seen=seen)], Generations((2,), 4, 1, 2), print)
        assert prompts["a"] == prompts["b"]
        assert len({str(prompt) for prompt in prompts["a"]}) == 3

    def test_time_to_the_first_token_is_told_from_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

        def wait(first: bool) -> None:
            clock.now += 8.0 if first else 2.0

        ((row,),) = (
            found.values() for found in generation_speeds([Fake("a", [], wait)], Generations((1,), 4, 2, 1), print)
        )
        assert row is not None
        assert (row["prefill_s"], row["decode_s"]) == (8.0, 2.0)

    def test_what_does_not_fit_stops_nothing_else(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fail(first: bool) -> None:
            raise torch.OutOfMemoryError("out of memory")

        (found,) = generation_speeds([Fake("a", [], fail, above=1)], Generations((1, 8), 4, 2, 1), print)
        assert found["1"] is not None
        assert found["8"] is None
        assert generation_memory(Fake("a", [], fail, above=1), Generations((1, 8), 4, 2, 1), print)["8"] is None
        assert "too little memory to generate 8 sequences" in capsys.readouterr().out

    def test_memory_counts_what_generating_takes(self) -> None:
        what, block = Generations((1,), 4, 2, 1), 200_000_000
        model = Pico("llama", 2).build()
        plain = generation_memory(model, what, print)["1"]
        generate = model.generate

        def greedy_for_memory(*args: Any, **kwargs: Any) -> Any:
            held = torch.ones(block, dtype=torch.uint8)
            found = generate(*args, **kwargs)
            time.sleep(0.05)
            del held
            return found

        model.generate = greedy_for_memory
        more = generation_memory(model, what, print)["1"]
        assert plain is not None
        assert more is not None
        assert more - plain > 0.9 * block


class Fake:
    """A model that notes what it is asked to generate."""

    def __init__(
        self,
        name: str,
        calls: list[tuple[str, int, int]],
        work: Any = lambda first: None,
        above: int = 0,
        seen: list[Any] | None = None,
    ) -> None:
        self._name, self._calls, self._work, self._above = name, calls, work, above
        self._weight = torch.zeros(1)
        self.config = CONFIG_MAPPING["llama"](vocab_size=1000)
        self._seen = [] if seen is None else seen

    def parameters(self) -> Any:
        return iter([self._weight])

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(weight=self._weight, parameters=self.parameters)

    def generate(self, ids: torch.Tensor, max_new_tokens: int, stopping_criteria: Any, **settings: Any) -> None:
        assert settings["min_new_tokens"] == max_new_tokens
        self._calls.append((self._name, ids.shape[0], max_new_tokens))
        self._seen.append(ids.tolist())
        for number in range(max_new_tokens):
            if ids.shape[0] > self._above:
                self._work(number == 0)
            stopping_criteria[0](ids, None)


def test_the_command_shows_one_table_or_json(small_run: RunConfig, pruned: Path, questions: Path) -> None:
    command = ["eval", str(pruned), "--dataset", str(small_run.eval_dataset), "--eval-sequence-length", "64"]
    command += ["--eval-samples", "2", "--tasks", str(questions), "--device", "cpu"]
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(cli, command, catch_exceptions=False)
    assert "(dense)" in shown.stdout
    assert "types, 4 questions: accuracy, %" in shown.stdout
    assert "change" in shown.stdout
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert [model["dense"] for model in found["models"]] == [True, False]
    assert found["text"]["sequence_length"] == 64


def test_a_model_that_is_not_finite_says_so(
    small_run: RunConfig, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = Pico("llama", 2).build()
    model.lm_head.weight.data[:] = math.nan
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert measured(small_run, [tmp_path])[0]["models"][0]["perplexity"] is None
