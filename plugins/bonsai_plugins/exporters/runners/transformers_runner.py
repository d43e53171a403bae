"""Runs a checkpoint in transformers, without Bonsai; see `bonsai_core.runtimes.serve`."""

import time
from typing import Any

import torch
import transformers


class Model:
    """A checkpoint in a directory."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        if options["threads"]:
            torch.set_num_threads(options["threads"])
        self.runtime = f"transformers {transformers.__version__}"
        self._device = torch.device(options["device"])
        trust = options["trust_remote_code"]
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=options["dtype"], use_safetensors=True, trust_remote_code=trust
        )
        self._model = model.to(self._device).eval()

    @torch.inference_mode()
    def log_probabilities(self, tokens: list[int]) -> list[float]:
        logits = self._model(self._ids([tokens])).logits[0, :-1].float()
        told: list[float] = logits.log_softmax(-1).gather(-1, self._ids(tokens[1:])[:, None])[:, 0].tolist()
        return told

    def generate(self, tokens: list[int], count: int) -> list[int]:
        written: list[int] = self._generate(self._ids([tokens]), count)[0, len(tokens) :].tolist()
        return written

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        ids = self._ids([[1] * prompt_tokens] * batch)
        first = self._seconds(ids, 1)
        return first, (self._seconds(ids, 1 + new_tokens) - first) / new_tokens

    def _seconds(self, ids: torch.Tensor, count: int) -> float:
        self._synchronize()
        start = time.perf_counter()
        self._generate(ids, count)
        self._synchronize()
        return time.perf_counter() - start

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        written: torch.Tensor = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            pad_token_id=0,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        return written

    def _ids(self, tokens: Any) -> torch.Tensor:
        return torch.tensor(tokens, device=self._device)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        elif self._device.type == "mps":
            torch.mps.synchronize()
