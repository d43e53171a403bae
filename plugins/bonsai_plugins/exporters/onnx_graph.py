"""Traces a causal LM as an ONNX graph."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from bonsai_core import BonsaiError, Checkpoint, load_model

BATCH, PAST, NEW = 2, 3, 5
"""Sizes that the model is traced with; no two are equal, and none is 1, so that none is taken for a constant."""
LARGE_BYTES = 1_500_000_000
"""Weights above this are kept in a file of their own: an ONNX file holds at most 2 GB."""


class Cached(nn.Module):
    """A causal LM whose cache is an input and an output: a key and a value of every layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.argument = _cache_argument(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits of the new tokens, and the cache with them."""
        cache = DynamicCache()  # without a configuration: keys outside of a window are masked, not dropped
        for layer, (key, value) in enumerate(past):
            cache.update(key, value, layer)
        positions = _positions(attention_mask)[:, past[0][0].shape[2] :]
        logits = self.model(
            input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=True, **{self.argument: cache}
        ).logits
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


class Plain(nn.Module):
    """A causal LM without a cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of all tokens."""
        logits: Tensor = self.model(
            input_ids, attention_mask=attention_mask, position_ids=_positions(attention_mask), use_cache=False
        ).logits
        return logits


def _cache_argument(model: Any) -> str:
    """What a model calls the cache that it is given."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _positions(attention_mask: Tensor) -> Tensor:
    """The position of every token among those that the mask names."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def write_graph(checkpoint: Checkpoint, file: Path, *, cached: bool) -> None:
    """Write a checkpoint in float32 as an ONNX graph with its weights.

    Raises:
        BonsaiError: torch cannot trace the model.
    """
    model: Any = load_model(str(checkpoint.path), dtype="float32", device="cpu")
    if checkpoint.family is not None and checkpoint.family.experts is not None:
        model.set_experts_implementation("batched_mm")  # loops over experts depend on the tokens
    arguments: dict[str, Any] = {
        "input_ids": torch.ones(BATCH, NEW, dtype=torch.long),
        "attention_mask": torch.ones(BATCH, NEW, dtype=torch.long),
    }
    dynamic: dict[str, Any] = {name: {0: "batch", 1: "tokens"} for name in arguments}
    inputs, outputs = list(arguments), ["logits"]
    if cached:
        past = [torch.zeros(BATCH, heads, PAST, size) for heads, size in _cache_shapes(model)]
        arguments["attention_mask"] = torch.ones(BATCH, PAST + NEW, dtype=torch.long)
        arguments["past"] = [(entry, entry.clone()) for entry in past]
        dynamic["attention_mask"] = {0: "batch", 1: "all_tokens"}
        dynamic["past"] = [({0: "batch", 2: "past_tokens"},) * 2 for _ in past]
        names = [f"{layer}.{part}" for layer in range(len(past)) for part in ("key", "value")]
        inputs += [f"past_key_values.{name}" for name in names]
        outputs += [f"present.{name}" for name in names]
    module = (Cached if cached else Plain)(model).eval()
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                module,
                kwargs=arguments,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise BonsaiError(f"torch {torch.__version__} cannot export this model to ONNX: {error}") from error
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # they name source files of this machine
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        program.save(file, external_data=size > LARGE_BYTES)


def _cache_shapes(model: Any) -> list[tuple[int, int]]:
    """(heads, head size) of every layer's entry in a cache."""
    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.ones(1, 1, dtype=torch.long), use_cache=True, **{_cache_argument(model): cache})
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in cache.layers]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
