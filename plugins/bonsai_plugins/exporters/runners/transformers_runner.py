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
        config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust)
        if getattr(config, "attn_logit_softcapping", None):
            config._attn_implementation = "eager"  # the default of transformers 4 forgets the cap
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=options["dtype"], use_safetensors=True, trust_remote_code=trust
        )
        self._model = model.to(self._device).eval()
        self._prompts = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def log_probabilities(self, tokens: list[int]) -> list[float]:
        logits = self._model(self._ids([tokens])).logits[0, :-1].float()
        told: list[float] = logits.log_softmax(-1).gather(-1, self._ids(tokens[1:])[:, None])[:, 0].tolist()
        return told

    def generate(self, tokens: list[int], count: int) -> list[int]:
        written: list[int] = self._generate(self._ids([tokens]), count)[0, len(tokens) :].tolist()
        return written

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Every call has other random prompts, the same for all models that are asked the same."""
        vocabulary = self._model.config.get_text_config().vocab_size
        ids = torch.randint(vocabulary, (batch, prompt_tokens), generator=self._prompts).to(self._device)
        first = FirstToken(self._synchronize)
        self._synchronize()
        start = time.perf_counter()
        self._generate(ids, 1 + new_tokens, first)
        self._synchronize()
        end = time.perf_counter()
        return first.at - start, (end - first.at) / new_tokens

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, count: int, *watchers: Any) -> torch.Tensor:
        written: torch.Tensor = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            min_new_tokens=count,
            max_new_tokens=count,
            stopping_criteria=[*watchers],
        )
        return written

    def _ids(self, tokens: Any) -> torch.Tensor:
        return torch.tensor(tokens, device=self._device)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        elif self._device.type == "mps":
            torch.mps.synchronize()


class FirstToken(transformers.StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Never stops; records when the first new token is there."""

    def __init__(self, synchronize: Any) -> None:
        self._synchronize = synchronize
        self.at = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **settings: Any) -> torch.Tensor:
        if not self.at:
            self._synchronize()
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
