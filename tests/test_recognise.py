"""Architectures that no family is declared for: recognised, proved on the spot, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HEAD_DIM, HEADS, HIDDEN, LAYERS, PICOS, VOCABULARY, WIDTH, Pico, family_of, measured
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, RunConfig, run
from bonsai_core.model.loading.parent import find_parent
from bonsai_core.model.recognition.laws import family_mismatch, logits
from bonsai_core.model.recognition.recognise import NAME, recognise
from bonsai_core.model.subject import Subject
from bonsai_core.testing.family import keep_vectors

RECOGNISABLE = [pico for pico in PICOS if "moe" not in pico.family and pico.family != "mixtral"]
UNDECLARED = ["helium", "glm", "starcoder2", "cohere", "olmo", "olmo3", "nanochat", "gpt_bigcode"]


def config_of(model_type: str) -> Any:
    return CONFIG_MAPPING[model_type](
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=256,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
        **({"n_inner": WIDTH} if model_type == "gpt_bigcode" else {}),
    )


@pytest.mark.parametrize("pico", RECOGNISABLE, ids=str)
def test_declared_families_would_be_recognised(registry: Registry, pico: Pico) -> None:
    model = pico.build()
    family = recognise(model.config)
    by_hand = Subject(model, family_of(registry, pico)).table
    assert Subject(pico.build(), family).table == by_hand
    for keep_U in keep_vectors(by_hand):
        sliced = [Subject(pico.build(), one) for one in (family, family_of(registry, pico))]
        for subject in sliced:
            subject.slice(keep_U)
        assert logits(sliced[0].model).equal(logits(sliced[1].model))


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_declarations_fit(registry: Registry, pico: Pico) -> None:
    family = family_of(registry, pico).of(pico.build().config)
    assert family_mismatch(pico.build(), family) is None


@pytest.mark.parametrize(
    ("model_type", "wrong"),
    [
        ("phi3", {"reads_config": False}),
        ("gpt_neox", {"interleaved": False}),
        ("phi3", {"interleaved": True}),
        ("opt", {"heads_attributes": ()}),
        ("llama", {"value": "q_proj"}),
        ("llama", {"groups_field": "num_attention_heads"}),
    ],
)
def test_wrong_declarations_do_not(registry: Registry, model_type: str, wrong: dict[str, Any]) -> None:
    pico = next(pico for pico in PICOS if pico.family == model_type and pico.num_key_value_heads != 1)
    if model_type == "llama":
        pico = Pico("llama", 2)
    family = family_of(registry, pico)
    assert family.attention is not None
    attention = family.attention.model_copy(update=wrong)
    assert family_mismatch(pico.build(), family.model_copy(update={"attention": attention})) is not None


def test_attention_that_cannot_be_sliced_stays_whole(registry: Registry) -> None:
    family = recognise(config_of("olmo3"))
    assert family.attention is None
    assert "not the same as masking" in family.why


@pytest.mark.parametrize("model_type", UNDECLARED)
def test_a_recognised_model_is_pruned_and_loads(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, model_type: str, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_config(config_of(model_type))
    model.save_pretrained(tmp_path / "parent")
    tokenizer.save_pretrained(tmp_path / "parent")
    settings = {"model": str(tmp_path / "parent"), "out": tmp_path / "run", "latency": False}
    result = run(small_run.model_copy(update=settings), registry=registry)
    assert find_parent(RunConfig(model=str(tmp_path / "parent")), registry).family.name == NAME
    config = json.loads((result.model_path / "config.json").read_text())
    assert config["model_type"] == f"bonsai_{model_type}"
    found = measured(small_run, tmp_path / "run")
    assert found["perplexity"] == pytest.approx(result.report["perplexity"]["pruned"], rel=1e-4)
    assert found["parameters"] == result.report["parameters"]["pruned"]


def test_the_language_model_of_a_multimodal_one_is_pruned(registry: Registry, tmp_path: Path) -> None:
    picture = CONFIG_MAPPING["siglip_vision_model"](
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS
    )
    words = next(pico for pico in PICOS if pico.family == "gemma3_text").config
    config = CONFIG_MAPPING["gemma3"](text_config=words.to_dict(), vision_config=picture.to_dict())
    whole = AutoModelForImageTextToText.from_config(config)
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(BonsaiError, match=r"is multimodal.*'gemma3_text'.*docs/own-model.md"):
        find_parent(RunConfig(model=str(tmp_path / "whole")), registry)
    # As docs/own-model.md has it.
    text = AutoModelForCausalLM.from_config(whole.config.get_text_config(), dtype=whole.dtype)
    text.base_model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    text.save_pretrained(tmp_path / "text")
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert text.eval()(ids).logits.equal(whole.eval()(input_ids=ids).logits)
    assert find_parent(RunConfig(model=str(tmp_path / "text")), registry).family.name == "gemma"


def test_what_is_not_recognised_says_what_was_found(registry: Registry, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config_of("bloom")).save_pretrained(tmp_path)
    with pytest.raises(BonsaiError, match=r"not recognised: the linears.*query_key_value.*Family\(name="):
        find_parent(RunConfig(model=str(tmp_path)), registry)
