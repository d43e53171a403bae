"""Runs an ONNX graph in onnxruntime, without Bonsai; see `bonsai_core.runtimes.serve`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CACHE = "past_key_values."


class Model:
    """A directory with model.onnx, with or without a cache among its inputs."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        settings = onnxruntime.SessionOptions()
        if options["threads"]:
            settings.intra_op_num_threads = options["threads"]
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        provider = PROVIDERS[options["device"].split(":")[0]]
        file = Path(path) / "model.onnx"
        self._session = onnxruntime.InferenceSession(file, settings, providers=[provider])
        self._cache = [given for given in self._session.get_inputs() if given.name.startswith(CACHE)]
        self._prompts = np.random.default_rng(0)

    def log_probabilities(self, tokens: list[int]) -> list[float]:
        logits = self._run(np.array([tokens[:-1]]), self._empty(1))[0][0].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        told = logits[np.arange(len(tokens) - 1), tokens[1:]] - np.log(np.exp(logits).sum(-1))
        return [float(value) for value in told]

    def generate(self, tokens: list[int], count: int) -> list[int]:
        return [int(token[0, 0]) for token in self._continued(np.array([tokens]), count)]

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Every call has other random prompts, the same for all models that are asked the same."""
        vocabulary = self._session.get_outputs()[0].shape[2]
        ids = self._prompts.integers(vocabulary, size=(batch, prompt_tokens))
        start = time.perf_counter()
        ends = [time.perf_counter() for _ in self._continued(ids, 1 + new_tokens)]
        return ends[0] - start, (ends[-1] - ends[0]) / new_tokens

    def _continued(self, ids: Any, count: int) -> Iterator[Any]:
        """The likeliest tokens after a prompt, one at a time, int64 [batch, 1]."""
        past, new = self._empty(len(ids)), ids
        for _ in range(count):
            logits, *past = self._run(new, past)
            token = logits[:, -1].argmax(-1)[:, None]
            yield token
            ids = np.concatenate([ids, token], 1)
            new = token if self._cache else ids

    def _run(self, ids: Any, past: list[Any]) -> list[Any]:
        length = ids.shape[1] + (past[0].shape[2] if past else 0)
        named = {given.name: entry for given, entry in zip(self._cache, past, strict=True)}
        inputs = {"input_ids": ids, "attention_mask": np.ones((len(ids), length), np.int64), **named}
        outputs: list[Any] = self._session.run(None, inputs)
        return outputs

    def _empty(self, batch: int) -> list[Any]:
        """A cache of no tokens."""
        return [np.zeros((batch, given.shape[1], 0, given.shape[3]), np.float32) for given in self._cache]
