"""A family that is registered by hand holds in everything that follows: pruning, adapting and evaluating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import HEAD_DIM, HEADS, HIDDEN, LAYERS, VOCABULARY, WIDTH, Listener, Pico, saved
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import AdaptConfig, EvalConfig, Family, Registry, RunConfig, adapt, evaluate, hookimpl, run
from bonsai_core.events import Warned

UNDECLARED = "helium"
SHORT = {"steps": 1, "batch_size": 2, "sequence_length": 32, "eval_samples": 2, "eval_sequence_length": 64}


class Plugin:
    """A plugin with one family, whose models read text that begins with a BOS token."""

    def __init__(self, model_type: str) -> None:
        self.family = Family(name="mine", model_types=(model_type,), starts_with_bos=True)

    @hookimpl
    def bonsai_slicers(self) -> list[Family]:
        return [self.family]


def parent(model_type: str, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    if model_type == "llama":
        return saved(Pico("llama", 2), tokenizer, directory)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "head_dim": HEAD_DIM}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2}
    tokens = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    config = CONFIG_MAPPING[model_type](**sizes, **heads, **tokens, max_position_embeddings=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("model_type", "slicer"),
    [(UNDECLARED, "auto"), ("llama", "mine")],
    ids=["of a model type of its own", "chosen by name"],
)
def test_it_holds_in_run_adapt_and_evaluate(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, model_type: str, slicer: str, tmp_path: Path
) -> None:
    registry, listener = Registry(), Listener()
    registry.register(Plugin(model_type), "a notebook")
    registry.register(listener, "a test")
    dense, out = parent(model_type, tokenizer, tmp_path / "dense"), tmp_path / "run"
    settings = {"model": str(dense), "slicer": slicer, "out": out, "latency": False}
    found = run(small_run.model_copy(update=settings), registry=registry).report["perplexity"]

    adapted = adapt(AdaptConfig.model_validate({**SHORT, "model": str(out)}), registry=registry)
    assert adapted.report["perplexity"]["before"] == pytest.approx(found["pruned"], rel=1e-4)
    assert adapted.report["perplexity"]["teacher"] == pytest.approx(found["dense"], rel=1e-4)

    models = (str(out), str(adapted.directory))
    sizes: dict[str, Any] = {"eval_samples": 2, "eval_sequence_length": 64}
    compared = evaluate(EvalConfig(models=models, dataset=str(small_run.eval_dataset), **sizes), registry=registry)
    expected = [found["dense"], found["pruned"], adapted.report["perplexity"]["after"]]
    assert [model["perplexity"] for model in compared["models"]] == pytest.approx(expected, rel=1e-4)
    assert not [event.text for event in listener.events if isinstance(event, Warned) and "plugin" in event.text]


def test_without_its_plugin_the_model_type_decides_and_it_says_so(
    small_run: RunConfig, pico_directory: Path, tmp_path: Path
) -> None:
    with_plugin, without, listener = Registry(), Registry(), Listener()
    with_plugin.register(Plugin("llama"), "a notebook")
    without.register(listener, "a test")
    settings = {"model": str(pico_directory), "slicer": "mine", "out": tmp_path / "run", "latency": False}
    run(small_run.model_copy(update=settings), registry=with_plugin)
    config = EvalConfig(models=(str(tmp_path / "run"),), dataset=str(small_run.eval_dataset), dense="none")
    evaluate(config, registry=without)
    (text,) = (event.text for event in listener.events if isinstance(event, Warned) and "plugin" in event.text)
    assert "its model type decides instead. There is no slicer 'mine'" in text
