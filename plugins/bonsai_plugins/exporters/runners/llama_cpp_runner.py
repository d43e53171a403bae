"""Runs a GGUF file in llama.cpp, through the package cyllama; see `bonsai_core.runtimes.serve`."""

import time
from importlib.metadata import version
from typing import Any

import numpy as np
from cyllama.llama import llama_cpp

FLOAT32 = 0
NO_FLASH_ATTENTION = 0
EVERY_LAYER = 999


class _File(llama_cpp.LlamaModel):  # type: ignore[misc]  # cyllama is untyped
    # The logits of a context of cyllama 0.2.18 read it, and its models lack it.
    n_vocab = property(lambda self: self.get_vocab().n_vocab)


class Model:
    """A GGUF file. With float32, keys and values are kept and attended to in it; otherwise as llama.cpp does."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        llama_cpp.disable_logging()
        params = llama_cpp.LlamaModelParams()
        params.n_gpu_layers = 0 if options["device"] == "cpu" else EVERY_LAYER
        self.runtime = f"llama.cpp (cyllama {version('cyllama')})"
        self._model = _File(path, params)
        self._vocabulary = self._model.n_vocab
        self._threads = options["threads"]
        self._exact = options["dtype"] == "float32"

    def log_probabilities(self, tokens: list[int]) -> list[float]:
        context = self._context(len(tokens))
        self._decode(context, [tokens[:-1]], 0, every=True)
        return [self._log_probability(context, n, token) for n, token in enumerate(tokens[1:])]

    def generate(self, tokens: list[int], count: int) -> list[int]:
        context = self._context(len(tokens) + count)
        written: list[int] = []
        new = tokens
        for _ in range(count):
            self._decode(context, [new], len(tokens) + len(written) - len(new))
            written.append(int(self._logits(context, len(new) - 1).argmax()))
            new = written[-1:]
        return written

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        context = self._context(prompt_tokens + new_tokens, batch)
        self._decode(context, [[1]] * batch, 0)  # the first call allocates
        context.kv_cache_clear()
        start = time.perf_counter()
        self._decode(context, [[1] * prompt_tokens] * batch, 0)
        first = time.perf_counter()
        for n in range(new_tokens):
            self._decode(context, [[1]] * batch, prompt_tokens + n)
        return first - start, (time.perf_counter() - first) / new_tokens

    def _context(self, length: int, sequences: int = 1) -> Any:
        """An empty context for sequences of at most `length` tokens, which go through the model at once."""
        params = llama_cpp.LlamaContextParams()
        params.n_seq_max = sequences
        params.n_ctx = params.n_batch = length * sequences
        params.kv_unified = sequences == 1
        if self._exact:
            params.type_k = params.type_v = FLOAT32
            params.flash_attn_type = NO_FLASH_ATTENTION
        if self._threads:
            params.n_threads = params.n_threads_batch = self._threads
        return llama_cpp.LlamaContext(self._model, params)

    def _decode(self, context: Any, sequences: list[list[int]], past: int, every: bool = False) -> None:
        """Continue sequences that have `past` tokens; the logits of the last token of each, or of `every` one."""
        batch = llama_cpp.LlamaBatch(n_tokens=sum(map(len, sequences)), embd=0, n_seq_max=len(sequences))
        for number, tokens in enumerate(sequences):
            for n, token in enumerate(tokens):
                batch.add(token, past + n, [number], every or n == len(tokens) - 1)
        context.decode(batch)
        context.synchronize()

    def _log_probability(self, context: Any, n: int, token: int) -> float:
        logits = self._logits(context, n).astype(np.float64)
        top = logits.max()
        return float(logits[token] - top - np.log(np.exp(logits - top).sum()))

    def _logits(self, context: Any, n: int) -> Any:
        return np.asarray(context.get_logits_ith(n), dtype=np.float32)
