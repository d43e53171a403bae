"""Runs a checkpoint in mlx-lm, without Bonsai; see `bonsai_core.runtimes.serve`."""

import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

MODEL_FILE = Path(__file__).parents[1] / "mlx_model.py"


class Model:
    """A checkpoint in a directory.

    The number of threads is left to MLX, which has no option for it. A model file that is exactly the one that Bonsai
    writes is run without being trusted.
    """

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.runtime = f"mlx-lm {version('mlx-lm')} (mlx {version('mlx')}, {mx.default_device()})"
        own = Path(path) / MODEL_FILE.name
        trusted = options["trust_remote_code"] or (own.is_file() and own.read_bytes() == MODEL_FILE.read_bytes())
        self._prompts = np.random.default_rng(0)
        self._model, config = load_model(Path(path), trust_remote_code=trusted)
        self._vocabulary = config["vocab_size"]
        dtype = getattr(mx, options["dtype"])

        def converted(value: Any) -> Any:
            return value.astype(dtype) if mx.issubdtype(value.dtype, mx.floating) else value

        self._model.update(tree_map(converted, self._model.parameters()))

    def log_probabilities(self, tokens: list[int]) -> list[float]:
        logits = self._model(mx.array([tokens[:-1]]))[0].astype(mx.float32)
        told = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen: list[float] = mx.take_along_axis(told, mx.array(tokens[1:])[:, None], axis=-1)[:, 0].tolist()
        return chosen

    def generate(self, tokens: list[int], count: int) -> list[int]:
        return [int(token.item()) for token in self._continued(mx.array([tokens]), count)]

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Every call has other random prompts, the same for all models that are asked the same."""
        ids = mx.array(self._prompts.integers(self._vocabulary, size=(batch, prompt_tokens)))
        start = time.perf_counter()
        ends = [time.perf_counter() for _ in self._continued(ids, 1 + new_tokens)]
        return ends[0] - start, (ends[-1] - ends[0]) / new_tokens

    def _continued(self, ids: Any, count: int) -> Iterator[Any]:
        """The likeliest tokens after a prompt, one at a time, [batch, 1]."""
        cache = make_prompt_cache(self._model)
        for _ in range(count):
            ids = self._model(ids, cache=cache)[:, -1].argmax(-1)[:, None]
            mx.eval(ids)
            yield ids
