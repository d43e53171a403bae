"""Runs a checkpoint in vLLM; see `bonsai_core.runtimes.serve`.

It runs on the device that vLLM is built for, whatever `device` says. Environment variables that are set already are
kept: VLLM_CPU_KVCACHE_SPACE (GiB) where the cache is too small, for example.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

REQUIRES = ("vllm",)  # imported later, when it is known how many threads it may use
LONGEST = 4096  # tokens of a sequence, since the cache must have room for one


def backend(config: Mapping[str, Any]) -> str:
    """Which of vLLM's implementations runs a checkpoint right, by its config.json: `--model-impl`."""
    if "per_layer_config" in config:
        return "transformers"
    head_dim, heads = config.get("head_dim"), config.get("num_attention_heads", 1)
    # vLLM's own (0.32) take hidden size / heads for the size of a head; fewer heads were pruned than that.
    if config["model_type"] in ("qwen2", "qwen2_moe") and head_dim not in (None, config["hidden_size"] // heads):
        return "transformers"
    return "auto"


class Model:
    """A checkpoint in a directory."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        # vLLM reads all of these when it is imported.
        if options["threads"]:
            os.environ["OMP_NUM_THREADS"] = str(options["threads"])
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # it would take every core
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import vllm
        from vllm.platforms import current_platform

        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        self._vllm = vllm
        self._calls = 0
        self._vocabulary = config["vocab_size"]
        self._llm = vllm.LLM(
            path,
            skip_tokenizer_init=True,
            model_impl=backend(config),
            trust_remote_code=options["trust_remote_code"],
            dtype=options["dtype"],
            max_model_len=min(config.get("max_position_embeddings", LONGEST), LONGEST),
            enable_prefix_caching=False,
            disable_log_stats=True,
            seed=0,
        )
        self.runtime = f"vLLM {vllm.__version__} ({current_platform.device_type})"

    def log_probabilities(self, tokens: list[int]) -> list[float]:
        given = self._run([tokens], 1, prompt_logprobs=0)[0].prompt_logprobs
        return [found[token].logprob for found, token in zip(given[1:], tokens[1:], strict=True)]

    def generate(self, tokens: list[int], count: int) -> list[int]:
        return list(self._run([tokens], count)[0].outputs[0].token_ids)

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        first = self._seconds(batch, prompt_tokens, 1)
        return first, (self._seconds(batch, prompt_tokens, 1 + new_tokens) - first) / new_tokens

    def _seconds(self, batch: int, prompt_tokens: int, count: int) -> float:
        """How long it takes to continue prompts that no earlier call had."""
        self._calls += 1
        prompts = np.random.default_rng(self._calls).integers(self._vocabulary, size=(batch, prompt_tokens)).tolist()
        start = time.perf_counter()
        self._run(prompts, count)
        return time.perf_counter() - start

    def _run(self, prompts: list[list[int]], count: int, **settings: Any) -> list[Any]:
        sampling = self._vllm.SamplingParams(
            temperature=0, max_tokens=count, ignore_eos=True, detokenize=False, **settings
        )
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers: list[Any] = self._llm.generate(given, sampling, use_tqdm=False)
        return answers
