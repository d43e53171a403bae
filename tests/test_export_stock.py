"""Checkpoints that transformers 4 reads; `tests/runtimes/test_transformers4.py` reads them there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bonsai_plugins.exporters.stock import Stock
from conftest import Pico, family_of, saved
from free_models import THREE_LAYERS, save_free
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, export
from bonsai_core.runtimes.checkpoint import open_checkpoint

GQA = Pico("llama", 2)


def test_what_transformers_5_renamed_has_both_names_and_nothing_else_changes(
    pico_directory: Path, registry: Registry, tmp_path: Path
) -> None:
    out = export(str(pico_directory), "stock", tmp_path / "out", registry=registry).path
    before, after = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (pico_directory, out)
    )
    assert "rope_theta" not in before
    assert after == before | {"rope_theta": 10000.0, "torch_dtype": "float32"}
    for file in pico_directory.iterdir():
        if file.name not in ("config.json", "tokenizer_config.json"):
            assert (out / file.name).read_bytes() == file.read_bytes()
    assert not Stock().as_saved(open_checkpoint(str(pico_directory), registry, print))
    assert Stock().as_saved(open_checkpoint(str(out), registry, print))


def test_layers_of_different_widths_are_refused(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = save_free(GQA.config, THREE_LAYERS, tokenizer, registry, tmp_path / "free")
    with pytest.raises(BonsaiError, match="--shapes uniform"):
        export(str(directory), "stock", tmp_path / "out", registry=registry)
    assert Stock().shapes(GQA.config, family_of(registry, GQA)).uniform


def test_the_command_names_the_attention_that_caps_its_logits(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for pico, named in ((Pico("gemma2", 2, tied=True), True), (GQA, False)):
        directory = saved(pico, tokenizer, tmp_path / str(pico))
        (command,) = Stock().commands(open_checkpoint(str(directory), registry, print), tmp_path)
        assert ('attn_implementation="eager"' in command) is named
