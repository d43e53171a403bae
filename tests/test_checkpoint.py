"""What is saved loads: the same logits and the same texts, with Bonsai and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    StaticCache,
)

from bonsai_core import BonsaiError, Family
from bonsai_core.checkpoint import EmptyAttention, EmptyMLP, check_uniform, register, save_checkpoint
from bonsai_core.errors import UnknownNameError
from bonsai_core.upstream import cache_argument

HIDDEN, HEADS, HEAD_DIM, VOCAB, WIDTH = 32, 4, 8, 64, 48
CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}
CASES = [(family, groups) for family in CLASSES for groups in (4, 2, 1)]
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])
FAMILY = Family(name="llama", model_types=tuple(CLASSES))
# Of every layer: the KV groups and the number of MLP channels that stay.
RAGGED = [([], 20), ([0], 0), ([-1], 33)]

WITHOUT_BONSAI = """
import sys
sys.modules["bonsai_core"] = None
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
prompt = torch.tensor({prompt})
for directory in sys.argv[2:]:
    trust = sys.argv[1] == "trust" or None
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=trust).eval()
    found = {{"logits": model(prompt).logits.detach()}}
    for cache in ("dynamic", "static"):
        found[cache] = model.generate(prompt, max_new_tokens=6, do_sample=False, cache_implementation=cache)
    AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)
    save_file(found, Path(directory) / "found.safetensors")
"""


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    register(CLASSES)
    # Models this small spend their time in waking threads; and equal bits need equal threads in both processes.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pico(family: str, groups: int, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A random model; its weights are large, so that its texts do not repeat one token."""
    config_class, _ = CLASSES[family]
    config = config_class(
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=len(RAGGED),
        num_attention_heads=HEADS,
        num_key_value_heads=groups,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    # Not `.to(dtype)`, which would round the rotary frequencies too; loading keeps them in float32.
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(11)
    for parameter in model.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.3).to(dtype)
    return model


def part(linear: nn.Linear, index: Tensor, dim: int) -> nn.Linear:
    """The linear with some of its rows (0) or columns (1)."""
    weight = linear.weight.data.index_select(dim, index)
    # Not of the true size at first: torch warns of linears without features.
    small = nn.Linear(1, 1, bias=linear.bias is not None, device="meta")
    small.weight = nn.Parameter(weight)
    small.bias = linear.bias if dim == 1 or linear.bias is None else nn.Parameter(linear.bias.data[index])
    return small


def sliced(model: Any, plan: list[tuple[list[int], int]]) -> list[dict[str, int]]:
    """Slice in place; the sizes of every layer."""
    per_group = HEADS // model.config.num_key_value_heads
    for index, (layer, (groups, width)) in enumerate(zip(model.model.layers, plan, strict=True)):
        attention, mlp = layer.self_attn, layer.mlp
        if groups:
            wide = torch.arange(HEADS * HEAD_DIM).view(-1, per_group * HEAD_DIM)[groups].flatten()
            narrow = torch.arange(model.config.num_key_value_heads * HEAD_DIM).view(-1, HEAD_DIM)[groups].flatten()
            attention.q_proj, attention.o_proj = part(attention.q_proj, wide, 0), part(attention.o_proj, wide, 1)
            attention.k_proj, attention.v_proj = part(attention.k_proj, narrow, 0), part(attention.v_proj, narrow, 0)
        else:
            layer.self_attn = EmptyAttention(index, attention.o_proj.bias)
        if width:
            kept = torch.arange(WIDTH)[-width:]
            mlp.gate_proj, mlp.up_proj = part(mlp.gate_proj, kept, 0), part(mlp.up_proj, kept, 0)
            mlp.down_proj = part(mlp.down_proj, kept, 1)
        else:
            layer.mlp = EmptyMLP(mlp.down_proj.bias)
    return [
        {
            "num_attention_heads": per_group * len(groups),
            "num_key_value_heads": len(groups),
            "intermediate_size": width,
        }
        for groups, width in plan
    ]


def save(model: Any, directory: Path, plan: list[tuple[list[int], int]], shapes: Any = "free") -> None:
    save_checkpoint(
        model, tokenizer(), directory, family=FAMILY, per_layer=sliced(model, plan), shapes=shapes, provenance={"b": 1}
    )


def tokenizer() -> Any:
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0")


def load(directory: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, **options).eval()


@torch.no_grad()
def answers(model: Any) -> dict[str, Tensor]:
    """Logits under both attentions, and greedy texts with every kind of cache."""
    found = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        found[attention] = model(PROMPT).logits
        caches = {"none": {"use_cache": False}} | {c: {"cache_implementation": c} for c in ("dynamic", "static")}
        for cache, options in caches.items():
            text = model.generate(PROMPT, max_new_tokens=6, do_sample=False, **options)
            found[f"{attention} {cache}"] = text
    found["loop"] = decode_loop(model)
    return found


def decode_loop(model: Any) -> Tensor:
    """Greedy decoding by hand, which relies on the cache for positions."""
    cache = StaticCache(config=model.config, max_cache_len=32)
    text, step = PROMPT, PROMPT
    for _ in range(6):
        step = model(step, use_cache=True, **cache_argument(model, cache)).logits[:, -1:].argmax(-1)
        text = torch.cat([text, step], dim=1)
    assert cache.get_seq_length() == text.shape[1] - 1
    return text


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class TestFree:
    @pytest.mark.parametrize(("family", "groups"), CASES)
    def test_reloads_exactly(self, family: str, groups: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model = pico(family, groups, tie_word_embeddings=groups == 2)
        save(model, tmp_path / "model", RAGGED)
        capfd.readouterr()
        loaded = load(tmp_path / "model")
        found, expected = answers(loaded), answers(model)
        check_same(found, expected)
        texts = [found[name] for name in found if name not in ("eager", "sdpa")]
        assert all(torch.equal(text, texts[0]) for text in texts)
        assert "global" not in capfd.readouterr().err
        assert type(loaded).__name__ == f"Bonsai{type(model).__name__}"
        assert isinstance(loaded.model.layers[0].self_attn, EmptyAttention)
        assert isinstance(loaded.model.layers[1].mlp, EmptyMLP)
        assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())

    def test_emptied_sublayers_keep_their_output_bias(self, tmp_path: Path) -> None:
        model = pico("llama", 2, attention_bias=True, mlp_bias=True)
        save(model, tmp_path / "model", RAGGED)
        check_same(answers(load(tmp_path / "model")), answers(model))

    def test_width_zero_may_be_given_as_linears(self, tmp_path: Path) -> None:
        model, other = pico("llama", 2), pico("llama", 2)
        sizes = sliced(model, RAGGED)
        sliced(other, RAGGED)
        mlp = pico("llama", 2).model.layers[1].mlp
        for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            setattr(mlp, name, part(getattr(mlp, name), torch.arange(0), dim))
        other.model.layers[1].mlp = mlp
        assert torch.equal(other(PROMPT).logits, model(PROMPT).logits)
        save_checkpoint(other, None, tmp_path / "model", family=FAMILY, per_layer=sizes, shapes="free", provenance={})
        check_same(answers(load(tmp_path / "model")), answers(model))

    def test_bfloat16(self, tmp_path: Path) -> None:
        model = pico("llama", 2, torch.bfloat16)
        save(model, tmp_path / "model", RAGGED)
        loaded = load(tmp_path / "model")
        assert loaded.dtype == torch.bfloat16
        check_same(answers(loaded), answers(model))

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_attention_is_chosen_at_loading(self, attention: str, tmp_path: Path) -> None:
        model = pico("mistral", 2)
        save(model, tmp_path / "model", RAGGED)
        loaded = load(tmp_path / "model", attn_implementation=attention)
        assert loaded.model.layers[1].self_attn.config._attn_implementation == attention
        assert torch.equal(loaded(PROMPT).logits, answers(model)[attention])

    def test_compiles_in_one_piece(self, tmp_path: Path) -> None:
        save(pico("llama", 2), tmp_path / "model", RAGGED)
        loaded = load(tmp_path / "model")
        compiled: Any = torch.compile(loaded, backend="eager", fullgraph=True)
        with torch.no_grad():
            assert torch.equal(compiled(PROMPT).logits, loaded(PROMPT).logits)

    def test_prefill_in_chunks(self, tmp_path: Path) -> None:
        model = pico("llama", 2)
        save(model, tmp_path / "model", RAGGED)
        options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
        chunked = load(tmp_path / "model").generate(PROMPT, prefill_chunk_size=2, **options)
        assert torch.equal(chunked, model.generate(PROMPT, **options))

    def test_saving_again_loads_again(self, tmp_path: Path) -> None:
        save(pico("llama", 2), tmp_path / "model", RAGGED)
        loaded = load(tmp_path / "model")
        loaded.save_pretrained(tmp_path / "again")
        for name in ("model.safetensors", "config.json", "modeling_bonsai.py"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()

    def test_a_pruned_model_is_pruned_again(self, tmp_path: Path) -> None:
        save(pico("llama", 4), tmp_path / "model", [([0, 1, 3], 40), ([2], 41), ([0, 1], 42)])
        loaded = load(tmp_path / "model")
        loaded.model.layers[1].self_attn = EmptyAttention(1)
        sizes = [
            {"num_attention_heads": heads, "num_key_value_heads": heads, "intermediate_size": width}
            for heads, width in ((3, 40), (0, 41), (2, 42))
        ]
        save_checkpoint(loaded, None, tmp_path / "again", family=FAMILY, per_layer=sizes, shapes="free", provenance={})
        again = load(tmp_path / "again")
        assert type(again) is type(loaded)
        check_same(answers(again), answers(loaded))

    def test_trusting_changes_nothing_where_it_is_registered(self, tmp_path: Path) -> None:
        save(pico("llama", 2), tmp_path / "model", RAGGED)
        assert type(load(tmp_path / "model", trust_remote_code=True)) is type(load(tmp_path / "model"))
        assert AutoTokenizer.from_pretrained(tmp_path / "model")("w3 w5")["input_ids"]


class TestWithoutBonsai:
    """Another process, which cannot import Bonsai and has nobody to ask."""

    def test_free(self, tmp_path: Path) -> None:
        self.check(tmp_path, "free", dict.fromkeys((4, 2, 1), RAGGED))

    def test_uniform(self, tmp_path: Path) -> None:
        plans = {4: [([1, 3], 30)] * 3, 2: [([1], 30)] * 3, 1: [([0], 30)] * 3}
        for directory in self.check(tmp_path, "uniform", plans):
            config = json.loads((directory / "config.json").read_text())
            assert config["model_type"] == directory.name.split("-")[0]
            assert config["head_dim"] == HEAD_DIM
            assert not {"auto_map", "per_layer_config"} & config.keys()

    def check(self, root: Path, shapes: str, plans: dict[int, Any]) -> list[Path]:
        models = {
            root / f"{family}-{groups}": pico(family, groups, tie_word_embeddings=groups == 2)
            for family, groups in CASES
        }
        for (directory, model), (_, groups) in zip(models.items(), CASES, strict=True):
            save(model, directory, plans[groups], shapes)
        trust = "trust" if shapes == "free" else ""
        script = WITHOUT_BONSAI.format(prompt=PROMPT.tolist())
        result = subprocess.run(
            [sys.executable, "-I", "-c", script, trust, *map(str, models)],
            cwd=root,
            env={**os.environ, "HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "global" not in result.stderr
        assert "bonsai" not in result.stderr.lower()
        for directory, model in models.items():
            expected = answers(model)
            texts = {cache: expected[f"sdpa {cache}"] for cache in ("dynamic", "static")}
            check_same(load_file(directory / "found.safetensors"), {"logits": expected["sdpa"], **texts})
        return list(models)


class TestSaving:
    @pytest.mark.parametrize("shapes", ["free", "uniform"])
    def test_same_bytes_and_nothing_changed(self, shapes: str, tmp_path: Path) -> None:
        plan = RAGGED if shapes == "free" else [([0], 16)] * 3
        saved = []
        for name in ("a", "b"):
            model = pico("llama", 2, tie_word_embeddings=True)
            before, state = model.config.to_dict(), torch.get_rng_state()
            save(model, tmp_path / name, plan, shapes)
            assert torch.equal(torch.get_rng_state(), state)
            assert model.config.to_dict() == before
            saved.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
        assert saved[0] == saved[1]
        assert {"model.safetensors", "config.json", "generation_config.json", "bonsai.json"} <= saved[0].keys()
        assert {"tokenizer.json", "tokenizer_config.json"} <= saved[0].keys()
        assert ("modeling_bonsai.py" in saved[0]) == (shapes == "free")
        assert not [name for name in saved[0] if name.endswith((".bin", ".pt", ".pkl"))]

    def test_whole_or_not_at_all(self, tmp_path: Path) -> None:
        class Full:
            def save_pretrained(self, directory: Path) -> None:
                raise OSError("no space left")

        model = pico("llama", 2)
        sizes = sliced(model, RAGGED)
        target = tmp_path / "model"
        for expected in ([], ["model"]):
            with pytest.raises(OSError, match="no space"):
                save_checkpoint(model, Full(), target, family=FAMILY, per_layer=sizes, shapes="free", provenance={})
            assert [path.name for path in tmp_path.iterdir()] == expected
            (tmp_path / ".model.partial").mkdir()  # what a kill leaves
            save_checkpoint(
                model, None, target, family=FAMILY, per_layer=sizes, shapes="free", provenance={"z": "é", "a": 1}
            )
        assert (target / "bonsai.json").read_text(encoding="utf-8") == '{\n  "a": 1,\n  "z": "é"\n}\n'
        assert list(tmp_path.iterdir()) == [target]

    def test_wrong_sizes_are_found_before_writing(self, tmp_path: Path) -> None:
        model = pico("llama", 2)
        sizes = sliced(model, RAGGED)
        sizes[2] = sizes[2] | {"intermediate_size": 34}
        with pytest.raises(ValueError, match=r"layers\.2\.mlp"):
            save_checkpoint(
                model, None, tmp_path / "model", family=FAMILY, per_layer=sizes, shapes="free", provenance={}
            )
        with pytest.raises(ValueError, match="2 layers, the model 3"):
            save_checkpoint(
                model, None, tmp_path / "model", family=FAMILY, per_layer=sizes[:2], shapes="free", provenance={}
            )
        with pytest.raises(BonsaiError, match="differ between layers"):
            save_checkpoint(
                model, None, tmp_path / "model", family=FAMILY, per_layer=sizes, shapes="uniform", provenance={}
            )
        assert not list(tmp_path.iterdir())


class TestUniform:
    @pytest.mark.parametrize(("groups", "allowed"), [(4, "1 (1), 2 (2), 4 (4)."), (2, "2 (1), 4 (2)."), (1, "4 (1).")])
    def test_refusal_lists_what_is_possible(self, groups: int, allowed: str) -> None:
        config = pico("llama", groups).config
        check_uniform(
            config, {"num_attention_heads": HEADS, "num_key_value_heads": groups, "intermediate_size": 7}, FAMILY
        )
        with pytest.raises(BonsaiError, match="not a multiple") as error:
            check_uniform(config, {"num_attention_heads": 3, "num_key_value_heads": 3}, FAMILY)
        assert str(error.value).partition(" With")[0].endswith(f"KV heads): {allowed}")

    def test_nothing_is_left_out(self) -> None:
        with pytest.raises(BonsaiError, match="at least 1"):
            check_uniform(pico("mistral", 2).config, {"intermediate_size": 0}, FAMILY)

    def test_mistral_takes_any_number(self) -> None:
        check_uniform(pico("mistral", 4).config, {"num_attention_heads": 3, "num_key_value_heads": 3}, FAMILY)


def test_unknown_model_type() -> None:
    with pytest.raises(UnknownNameError, match="mistral"):
        register(["mistrall"])
