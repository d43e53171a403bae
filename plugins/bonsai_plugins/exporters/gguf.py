"""GGUF files for llama.cpp and what is built on it."""

from __future__ import annotations

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from bonsai_core import BonsaiError, Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters import gguf_tools
from bonsai_plugins.exporters.gguf_architectures import FREE
from bonsai_plugins.exporters.gguf_refusals import PERIODIC, STOCK, refusal, why_not_free
from bonsai_plugins.exporters.runners import RUNNERS

Plain = Literal["f32", "f16", "bf16"]
Blocks = Literal["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
SuperBlocks = Literal["q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_xs"]
BLOCK, SUPER_BLOCK = 32, 256
"""Weights of a row that types have one scale for; a row is a whole number of them."""
DIRECT = (*get_args(Plain), "q8_0")
"""Types that llama.cpp's converter writes, and so do we: they need no quantiser."""
LOSSLESS = {frozenset(["BF16"]): "bf16", frozenset(["F16"]): "f16"}
TOLERANCE = {"f32": 1e-3, "f16": 0.05, "bf16": 0.3}
GELU_TABLE = 0.02
"""What llama.cpp's table of GELU, which is in half precision on CPUs, adds to the tolerance; measured: 0.004."""


class Gguf(Exporter):
    """A GGUF file for llama.cpp: gguf:f32, f16 (default), bf16, q8_0, q4_k_m and other types of llama-quantize.

    llama.cpp's own converter writes the vocabulary, the metadata and checkpoints of stock classes, and its own
    quantiser quantises. What we add are layers that differ in width, which llama.cpp runs as its architectures `deci`
    (LLaMA, Mistral, Qwen2) and `openelm` (Qwen3 with tied embeddings).
    """

    name: ClassVar[str] = "gguf"
    runtime: ClassVar[str] = "llama.cpp"
    variant: ClassVar[str] = "type"
    suffix: ClassVar[str] = ".gguf"
    runner: ClassVar[Path | None] = RUNNERS / "llama_cpp_runner.py"

    type: Literal[Plain, Blocks, SuperBlocks] = Field(
        "f16", description="Of the matrices; all but f32, f16, bf16 and q8_0 need llama.cpp's quantiser."
    )
    pad_to: int | None = Field(
        None,
        ge=1,
        description="Widths of MLPs are padded with zeros to multiples of this [default: what the type wants]",
    )
    pre_tokenizer: str = Field(
        "", description="llama.cpp's name of how the vocabulary splits words, where it does not know the tokenizer."
    )
    llama_cpp: str = Field(
        "",
        description="Directories of llama.cpp, listed as in PATH [default: $BONSAI_LLAMA_CPP, then this environment]",
    )

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return refusal(checkpoint)

    def check_ready(self) -> None:
        self._programs()

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        converter, quantiser = self._programs()
        direct = not quantiser
        with TemporaryDirectory(prefix=".gguf-", dir=out.parent) as scratch:
            whole = out if direct else Path(scratch, "whole.gguf")
            self._write(checkpoint, converter, whole, self.type if direct else _lossless(checkpoint), Path(scratch))
            if not direct:
                gguf_tools.quantise(quantiser, whole, out, self.type)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        file, absolute = shlex.quote(str(out)), shlex.quote(str(out.absolute()))
        return [
            f'llama-cli -m {file} -p "Once upon a time"',
            f"llama-server -m {file}",
            f"echo FROM {absolute} > Modelfile && ollama create {shlex.quote(out.stem.lower())} -f Modelfile",
        ]

    def shapes(self, config: Any, family: Family) -> Shapes:
        kind = config.model_type
        free = why_not_free(config, kind) is None
        if not free and kind not in STOCK:
            raise BonsaiError(
                f"llama.cpp takes no pruned model of the type {kind}. It takes {', '.join(sorted(STOCK))}."
            )
        return Shapes(
            uniform=not free,
            round_to=dict.fromkeys(["expert_width" if family.experts else "mlp"], _block(config)),
            # Others get zeros only where a sub-layer must be; this one would get them in every layer.
            min_units={"attention": 1, "mlp": 1} if free and FREE[kind].whole else {},
            excluded=("layer",) if kind in PERIODIC else (),
        )

    def tolerance(self, checkpoint: Checkpoint) -> float | None:
        allowed = TOLERANCE.get(self.type)
        fields = ("hidden_act", "hidden_activation")
        activation = " ".join(str(getattr(checkpoint.config, field, None)) for field in fields)
        return allowed if allowed is None or "gelu" not in activation else allowed + GELU_TABLE

    def _programs(self) -> tuple[Path, list[str]]:
        """The converter, and the command that quantises; empty where the type needs none."""
        places = gguf_tools.directories(self.llama_cpp)
        return gguf_tools.converter(places), [] if self.type in DIRECT else gguf_tools.quantiser(places)

    def _write(self, checkpoint: Checkpoint, converter: Path, out: Path, kind: str, scratch: Path) -> None:
        """Write the model with its weights as they are, or rounded one by one."""
        from bonsai_plugins.exporters import gguf_files, gguf_padding  # torch, which listings do without

        pad_to = self.pad_to or self._wanted(checkpoint.config)
        name = checkpoint.path.parent.name if checkpoint.path.name == "model" else checkpoint.path.name
        ready = Path(scratch, "checkpoint")
        ready.mkdir()
        frame = out if checkpoint.stock else Path(scratch, "frame.gguf")
        if not checkpoint.stock:
            gguf_files.write_frame(checkpoint, ready)
        elif width := gguf_padding.padded_width(checkpoint, pad_to):
            gguf_padding.write_padded(checkpoint, ready, width)
        else:
            ready = checkpoint.path
        gguf_tools.convert(converter, ready, frame, kind, name=name, pre_tokenizer=self.pre_tokenizer)
        if not checkpoint.stock:
            gguf_files.add_layers(frame, out, checkpoint, FREE[checkpoint.model_type], kind, pad_to)

    def _wanted(self, config: Any) -> int:
        """What widths are padded to multiples of: no matrix then falls back to a larger type because of its width."""
        if self.type in get_args(Plain):
            return 1
        return BLOCK if self.type in get_args(Blocks) else _block(config)


def _block(config: Any) -> int:
    """What widths should be multiples of: super-blocks where rows of the other matrices are, otherwise blocks."""
    return SUPER_BLOCK if config.hidden_size % SUPER_BLOCK == 0 else BLOCK


def _lossless(checkpoint: Checkpoint) -> str:
    """The type that holds the weights as they are."""
    from bonsai_plugins.exporters.weights import Weights

    return LOSSLESS.get(frozenset(Weights(checkpoint.path).dtypes()), "f32")
