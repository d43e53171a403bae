"""Pico models with random weights and a tokenizer trained on the spot: enough to prove equalities, never quality."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bonsai_core import EvalConfig, Family, Registry, RunConfig, evaluate, hookimpl
from bonsai_core.events import Event
from bonsai_core.model.structure.declared import find_family
from bonsai_core.sources import load_metric_text, load_text

# The same examples in every process.
settings.register_profile("bonsai", deadline=None, derandomize=True, database=None)
settings.load_profile("bonsai")

HEADS, HEAD_DIM, HIDDEN, WIDTH, LAYERS, VOCABULARY = 4, 8, 32, 48, 3, 512
# What the configurations of some model types want beside the usual fields.
OPTIONS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": HEAD_DIM},
    "gemma3_text": {
        "sliding_window": 8,
        "query_pre_attn_scalar": HEAD_DIM,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
    "phi3": {"pad_token_id": 0, "sliding_window": None},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5},
    "smollm3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN, "dropout": 0.0},
}


@dataclass(frozen=True)
class Pico:
    """One row of the table of architectures that every law is checked on."""

    family: str
    num_key_value_heads: int
    attention_bias: bool = False
    tied: bool = False
    option: str = ""  # a switch of the configuration

    def __str__(self) -> str:
        kind = {HEADS: "mha", 1: "mqa"}.get(self.num_key_value_heads, "gqa")
        return "-".join(
            [
                self.family,
                kind,
                *["bias"] * self.attention_bias,
                *["tied"] * self.tied,
                *[self.option] * bool(self.option),
            ]
        )

    @property
    def config(self) -> Any:
        """Its configuration."""
        return CONFIG_MAPPING[self.family](
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=256,
            tie_word_embeddings=self.tied,
            **(self._falcon() if self.family == "falcon" else self._usual()),
            **OPTIONS.get(self.family, {}),
            **({self.option: True} if self.option else {}),
        )

    def _usual(self) -> dict[str, Any]:
        return {
            "intermediate_size": WIDTH,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": HEAD_DIM,
            **({"attention_bias": True, "mlp_bias": True} if self.attention_bias else {}),
        }

    def _falcon(self) -> dict[str, Any]:
        """As Falcon-7B without an option; with `alibi` as Falcon-RW, which is not a parallel block."""
        return {
            "ffn_hidden_size": WIDTH,
            **({"num_kv_heads": self.num_key_value_heads} if self.num_key_value_heads > 1 else {}),
            "multi_query": self.num_key_value_heads == 1,
            "parallel_attn": self.option != "alibi",
            "bias": self.attention_bias,
        }

    def build(self, seed: int = 0) -> Any:
        """A causal LM in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(self.config)
            make_every_unit_count(model)
        return model.eval()


def make_every_unit_count(model: nn.Module) -> None:
    """Draw weights that are large enough that every unit matters, from torch's global generator."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)


PICOS = [
    Pico("llama", HEADS),
    Pico("llama", 2),
    Pico("llama", 1, tied=True),
    Pico("llama", 2, attention_bias=True),
    Pico("mistral", HEADS),
    Pico("mistral", 2, tied=True),
    Pico("mistral", 1),
    Pico("qwen2", 2, tied=True),
    Pico("qwen3", 2),
    Pico("gemma", 1, tied=True),
    Pico("gemma2", 2, tied=True),
    Pico("gemma3_text", 2, tied=True),
    Pico("gemma3_text", 1, tied=True),
    Pico("phi", HEADS),
    Pico("phi3", 2),
    Pico("phi3", HEADS),
    Pico("granite", 2, tied=True),
    Pico("stablelm", 2, option="qk_layernorm"),
    Pico("stablelm", 2),
    Pico("stablelm", HEADS),
    Pico("smollm3", 2, tied=True),
    Pico("olmo2", HEADS),
    Pico("gpt_neox", HEADS),
    Pico("opt", HEADS, tied=True),
    Pico("falcon", 2, tied=True, option="new_decoder_architecture"),
    Pico("falcon", 2, attention_bias=True, option="new_decoder_architecture"),
    Pico("falcon", 1, tied=True),
    Pico("falcon", 1, attention_bias=True),
    Pico("falcon", HEADS, attention_bias=True, option="alibi"),
    Pico("mixtral", 2),
    Pico("qwen2_moe", 2),
    Pico("qwen3_moe", 2),
    Pico("olmoe", HEADS),
]


MIXTURES = [pico for pico in PICOS if pico.family in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")]
# Those that have query heads to spare, several to a KV group.
GROUPED = [pico for pico in PICOS if pico.num_key_value_heads < HEADS and pico.option != "qk_layernorm"]


class StoppedError(Exception):
    """The process is gone."""


class Stopper:
    """Stops the process at an event."""

    def __init__(self, when: Any) -> None:
        self._when = when

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if self._when(event):
            raise StoppedError


class Photographer:
    """Copies a run directory at events, as a kill there would leave it: all files, without the process.

    Args:
        where: gives the place of the copy at an event; None for no copy.
    """

    def __init__(self, directory: Path, where: Callable[[Event], Path | None]) -> None:
        self._directory = directory
        self._where = where

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        copy = self._where(event)
        if copy is not None:
            shutil.copytree(self._directory, copy)


class Listener:
    """Remembers all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        self.events.append(event)


def optional(there: object, reason: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a test that needs what is not always there; `reason` is told where it is not."""
    marks = pytest.mark.optional, pytest.mark.skipif(not there, reason=reason)
    return lambda test: marks[0](marks[1](test))


def family_of(registry: Registry, pico: Pico) -> Family:
    """The built-in declaration for a pico model."""
    family = find_family(registry.families(), "auto", pico.config)
    assert family is not None
    return family


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Pico matrices are far faster on one thread, and other numbers of threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for commands that tests start
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def imports_are_no_garbage() -> None:
    """What is there stays, so that a collection that the code asks for need not look through a million objects.

    Hypothesis must have been imported before: its plugins look for their random generators among what is collected.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def registry() -> Registry:
    """All installed plugins."""
    return Registry()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the pico vocabulary."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([load_text("builtin")[0].text[:50_000]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<eos>", eos_token="<eos>")


def saved(pico: Pico, tokenizer: PreTrainedTokenizerFast, directory: Path, **settings: Any) -> Path:
    """A pico model on disk with its tokenizer, as a user's own model would be; `settings` as for save_pretrained."""
    pico.build().save_pretrained(directory, **settings)
    tokenizer.save_pretrained(directory)
    return directory


def with_token_beyond(parent: Path, copy: Path) -> Path:
    """A model whose tokenizer has the token ``<tool>``, which its embeddings have no row for."""
    shutil.copytree(parent, copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(copy)
    return copy


@pytest.fixture(scope="session")
def pico_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A grouped-query pico Llama on disk."""
    return saved(Pico("llama", 2), tokenizer, tmp_path_factory.mktemp("models") / "pico-llama")


@pytest.fixture(scope="session")
def small_run(pico_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two untimed rounds on the pico model and a short text, done in half a second; `out` is left to the test."""
    folder = tmp_path_factory.mktemp("texts")
    texts = (*load_text("builtin"), load_metric_text("builtin-code"))
    for name, text in zip(("text.txt", "evaluation.txt", "guard.txt"), texts, strict=True):
        (folder / name).write_text(text.text[:20_000], encoding="utf-8")
    return RunConfig(
        model=str(pico_directory),
        dataset=str(folder / "text.txt"),
        eval_dataset=str(folder / "evaluation.txt"),
        guard_dataset=str(folder / "guard.txt"),
        sparsity=0.3,
        round_fraction=0.15,
        submodels=4,
        samples=2,
        prior_samples=64,
        round_to=1,
        sequence_length=32,
        eval_samples=2,
        eval_sequence_length=64,
        latency=False,
        page=False,  # drawing takes as long as the run; tests/test_pages.py looks at it
    )


def measured(run: RunConfig, model: Path | str, **settings: Any) -> dict[str, Any]:
    """What `bonsai eval` finds for one model on the evaluation text of a run."""
    base = {name: getattr(run, name) for name in ("eval_samples", "eval_sequence_length")}
    values = {**base, "dataset": run.eval_dataset, "models": [str(model)], "dense": "none", **settings}
    found: dict[str, Any] = evaluate(EvalConfig.model_validate(values))["models"][0]
    return found
