"""What mlx-lm gets, as far as it shows without mlx; `tests/runtimes/test_mlx.py` has the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bonsai_plugins.exporters.mlx import MODEL_FILE, Mlx
from conftest import HEAD_DIM, OPTIONS, Pico, family_of, saved
from free_models import THREE_LAYERS, save_free, save_stock
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Checkpoint, Registry, Shapes, export
from bonsai_core.runtimes.checkpoint import open_checkpoint

GQA = Pico("llama", 2)


def opened(directory: Path, registry: Registry) -> Checkpoint:
    return open_checkpoint(str(directory), registry, lambda text: None)


def exported(directory: Path, out: Path, registry: Registry) -> dict[str, Any]:
    """config.json of what is exported."""
    export(str(directory), "mlx", out, registry=registry, warn=lambda text: None)
    values: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return values


def changed(directory: Path, **values: Any) -> None:
    """Change keys of a checkpoint's config.json."""
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_layers_of_different_widths_come_with_a_model_file(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = save_free(GQA.config, THREE_LAYERS, tokenizer, registry, tmp_path / "free", ["mlp.down_proj"])
    values = exported(directory, tmp_path / "out", registry)
    assert values["model_type"] == "llama"
    assert values["architectures"] == ["LlamaForCausalLM"]
    assert values["model_file"] == MODEL_FILE.name
    assert values["bonsai"] == {
        "head_dim": HEAD_DIM,
        "layers": [
            {"heads": 0, "groups": 0, "width": 20},
            {"heads": 2, "groups": 1, "width": 0},
            {"heads": 2, "groups": 2, "width": 33},
        ],
        "added_biases": ["mlp.down_proj"],
    }
    assert not {"auto_map", "per_layer_config", "bonsai_family"} & set(values)
    assert [file.name for file in (tmp_path / "out").glob("*.py")] == [MODEL_FILE.name]
    assert (
        Mlx()
        .commands(opened(directory, registry), Path("out"))[0]
        .startswith("mlx_lm.generate --model out --trust-remote-code")
    )


def test_stock_checkpoints_need_no_code_and_bring_none(
    pico_directory: Path, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = saved(GQA, tokenizer, tmp_path / "dense")
    changed(directory, model_file="theirs.py")
    (directory / "theirs.py").write_text("raise SystemExit", encoding="utf-8")
    assert "model_file" not in exported(directory, tmp_path / "out", registry)
    assert "trust" not in Mlx().commands(opened(directory, registry), tmp_path / "out")[0]


def test_what_mlx_lm_has_other_defaults_for_is_written(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = saved(GQA, tokenizer, tmp_path / "dense")
    file = directory / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    assert "rope_theta" not in values, "transformers 5 writes it so; mlx-lm reads rope_theta"
    values["rope_parameters"]["rope_theta"] = 5e5
    del values["tie_word_embeddings"]
    file.write_text(json.dumps(values), encoding="utf-8")
    written = exported(directory, tmp_path / "out", registry)
    assert written["rope_theta"] == 5e5
    assert written["tie_word_embeddings"] is False


def test_heads_that_are_not_of_the_size_that_follows_from_their_number_are_resized(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """As in a Qwen2 that lost heads in every layer alike: mlx-lm computes hidden size / heads."""
    config = Pico("qwen2", 1).config
    directory = save_stock(config, tokenizer, tmp_path / "uniform", num_attention_heads=2)
    values = exported(directory, tmp_path / "out", registry)
    assert values["num_attention_heads"] == config.hidden_size // HEAD_DIM == 4
    assert [layer["heads"] for layer in values["bonsai"]["layers"]] == [2, 2, 2]


@pytest.mark.parametrize(
    ("pico", "free", "message"),
    [
        (Pico("gpt_neox", 4), False, "and this is gpt_neox"),
        (Pico("mixtral", 2), True, "differ in width"),
        (Pico("gemma2", 2), False, "one matrix for embeddings and outputs"),
        (Pico("gemma2", 2, tied=True), False, "at most 8 tokens"),
    ],
    ids=str,
)
def test_what_would_be_computed_otherwise_is_refused(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, pico: Pico, free: bool, message: str
) -> None:
    checkpoint = replace(opened(saved(pico, tokenizer, tmp_path / "model"), registry), stock=not free)
    assert message in str(Mlx().refusal(checkpoint))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sliding_window": 16}, "at most 16 tokens"),
        ({"sliding_window": 256}, None),
        ({"quantization_config": {"quant_method": "other"}}, "quantised"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
    ],
)
def test_attention_that_mlx_lm_has_not_is_refused(
    registry: Registry,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    settings: dict[str, Any],
    message: str | None,
) -> None:
    checkpoint = opened(saved(Pico("mistral", 2), tokenizer, tmp_path / "model"), registry)
    for name, value in settings.items():
        setattr(checkpoint.config, name, value)
    reason = Mlx().refusal(checkpoint)
    assert reason is None if message is None else message in str(reason)


def test_every_nth_layer_without_a_window_is_said_by_its_number(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = saved(Pico("gemma3_text", 2, tied=True), tokenizer, tmp_path / "model")
    assert exported(directory, tmp_path / "out", registry)["sliding_window_pattern"] == 3
    kinds = ["full_attention", *OPTIONS["gemma3_text"]["layer_types"][1:]]
    changed(directory, layer_types=kinds)
    assert "every n-th" in str(Mlx().refusal(opened(directory, registry)))


def test_runs_for_it_keep_to_what_it_takes(registry: Registry) -> None:
    def shapes(pico: Pico) -> Shapes:
        return Mlx().shapes(pico.config, family_of(registry, pico))

    assert shapes(GQA) == Shapes()
    assert shapes(Pico("mixtral", 2)) == Shapes(uniform=True)
    assert shapes(Pico("stablelm", 2)) == Shapes(uniform=True, excluded=("attention", "query"))
    assert shapes(Pico("gemma3_text", 2, tied=True)) == Shapes(excluded=("layer",))
    for pico, message in ((Pico("opt", 4), "this is opt"), (Pico("gemma2", 2, tied=True), "at most 8 tokens")):
        with pytest.raises(BonsaiError, match=message):
            shapes(pico)
