"""ONNX graphs: the model, for batches and with a cache, in onnxruntime."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bonsai_plugins.exporters import onnx_graph
from bonsai_plugins.exporters.onnx import Onnx
from conftest import Pico
from free_models import THREE_LAYERS, save_free
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, export, load_model
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import Exported

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.optional


@pytest.fixture(scope="module")
def checkpoint(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Without attention in the first layer, without an MLP in the second, with other heads in the third."""
    directory = tmp_path_factory.mktemp("models") / "free"
    return save_free(Pico("llama", 2).config, THREE_LAYERS, tokenizer, registry, directory)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The graph with a cache."""
    out = tmp_path_factory.mktemp("exports") / "cached"
    return export(str(checkpoint), "onnx", out, verify=True, registry=registry)


@pytest.fixture(scope="module")
def session(exported: Exported) -> Any:
    return onnxruntime.InferenceSession(exported.path / "model.onnx")


def test_the_graph_is_the_model_and_decodes_with_its_cache(exported: Exported) -> None:
    assert exported.verification is not None
    assert exported.verification.difference < 1e-4
    assert exported.verification.same_tokens == exported.verification.new_tokens


def test_the_file_names_no_place_on_the_machine_that_wrote_it(exported: Exported) -> None:
    assert str(Path(torch.__file__).parent).encode() not in (exported.path / "model.onnx").read_bytes()


def test_layers_keep_their_numbers_of_heads_in_the_cache(session: Any) -> None:
    keys = [given.shape[1] for given in session.get_inputs() if given.name.endswith(".key")]
    assert keys == [max(1, layer.groups) for layer in THREE_LAYERS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_may_be_padded(checkpoint: Path, session: Any, side: str) -> None:
    lines, longest = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3]], 7
    ids, attended = np.zeros((2, longest), np.int64), np.zeros((2, longest), np.int64)
    for row, line in enumerate(lines):
        columns = slice(longest - len(line), None) if side == "left" else slice(len(line))
        ids[row, columns], attended[row, columns] = line, 1
    past = {
        given.name: np.zeros((2, given.shape[1], 0, given.shape[3]), np.float32) for given in session.get_inputs()[2:]
    }
    logits = session.run(["logits"], {"input_ids": ids, "attention_mask": attended, **past})[0]
    model: Any = load_model(str(checkpoint))
    for row, line in enumerate(lines):
        with torch.inference_mode():
            expected = model(torch.tensor([line])).logits[0].numpy()
        np.testing.assert_allclose(logits[row, attended[row] == 1], expected, atol=1e-4)


def test_the_script_beside_the_graph_continues_a_text(checkpoint: Path, exported: Exported) -> None:
    done = subprocess.run(
        [sys.executable, exported.path / "generate.py", "The history"], capture_output=True, text=True, check=True
    )
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), load_model(str(checkpoint))
    ids = tokenizer("The history", return_tensors="pt")
    written: Any = model.generate(**ids, max_new_tokens=64, do_sample=False, pad_token_id=0)
    assert done.stdout.strip() == tokenizer.decode(written[0], skip_special_tokens=True).strip()


def test_a_plain_graph_has_no_cache_and_large_weights_are_in_a_file_of_their_own(
    checkpoint: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "LARGE_BYTES", 0)
    exported = export(str(checkpoint), "onnx:plain", tmp_path / "plain", verify=True, registry=registry)
    assert exported.verification is not None
    graph = exported.path / "model.onnx"
    assert [given.name for given in onnxruntime.InferenceSession(graph).get_inputs()] == ["input_ids", "attention_mask"]
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert graph.stat().st_size < weights / 2 < graph.with_name("model.onnx.data").stat().st_size
    assert not list(exported.path.glob("*.safetensors"))


def test_missing_packages_are_named(
    checkpoint: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BonsaiError, match=r"bonsai-prune\[onnx\]"):
        export(str(checkpoint), "onnx", tmp_path / "out", registry=registry)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "message"), [({"alibi": True}, "ALiBi"), ({"quantization_config": {"bits": 4}}, "quantised")]
)
def test_what_onnxruntime_cannot_compute_is_refused(
    checkpoint: Path, registry: Registry, setting: dict[str, Any], message: str
) -> None:
    opened = open_checkpoint(str(checkpoint), registry, print)
    assert opened.family is not None
    assert Onnx().refusal(opened) is None
    for name, value in setting.items():
        setattr(opened.config, name, value)
    assert message in str(Onnx().refusal(opened))
    with pytest.raises(BonsaiError, match=message):
        Onnx().shapes(opened.config, opened.family)
