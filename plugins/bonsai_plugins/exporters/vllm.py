"""Checkpoints for vLLM, which runs those whose layers differ in width in its Transformers backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bonsai_core import Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters.hf import RUNNERS, HuggingFace
from bonsai_plugins.exporters.refill import refill, write_json


class Vllm(Exporter):
    """A checkpoint that `vllm serve` takes.

    Stock checkpoints are copied. So are the weights of others, with the code of this version of Bonsai; but layers that
    lost their attention get one of zeros, since vLLM wants one in every layer.
    """

    name: ClassVar[str] = "vllm"
    runtime: ClassVar[str] = "vLLM"
    variant: ClassVar[str] = "tensor_parallel"
    runner: ClassVar[Path | None] = RUNNERS / "vllm_runner.py"

    tensor_parallel: int = Field(1, ge=1, description="Devices that share every layer: KV groups and widths divide.")

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return None

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        HuggingFace().export(checkpoint, out)
        if checkpoint.stock:
            return
        _write_code(checkpoint.config, out)
        refill(out, checkpoint.config, self.tensor_parallel)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        backend = "" if checkpoint.stock else " --model-impl transformers --trust-remote-code"
        parallel = f" --tensor-parallel-size {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return [f"vllm serve {out}{backend}{parallel}"]


def _write_code(config: Any, directory: Path) -> None:
    """Give a checkpoint this version's modeling file: that of an older one may have no model for `AutoModel`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.save_code(directory)
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write_json(directory / "config.json", values | {"auto_map": model.config.auto_map})
