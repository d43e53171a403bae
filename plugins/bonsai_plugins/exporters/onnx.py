"""ONNX, for onnxruntime."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from bonsai_core import BonsaiError, Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters.files import WEIGHTS, copy_files
from bonsai_plugins.exporters.runners import RUNNERS

NEEDED = ("onnx", "onnxscript")
FILE_NAME = "model.onnx"
SCRIPT = "generate.py"


class Onnx(Exporter):
    """A directory with a graph in float32 for any batch and length, and the tokenizer, for onnxruntime.

    The inputs of ``model.onnx`` are ``input_ids`` and ``attention_mask``, int64 [batch, tokens], and its first output
    is ``logits``, float32 [batch, tokens, vocabulary]. Positions are those of the tokens that the mask names, so that
    batches may be padded on either side. With a cache, the inputs ``past_key_values.N.key`` and ``.value`` of layer N,
    float32 [batch, heads, past tokens, head size], hold what earlier calls returned as ``present.N.key`` and
    ``.value``, the mask covers past tokens too, and ``logits`` are those of the new tokens. At first they have no past
    tokens. Layers differ in their number of heads; one without attention has one entry of width 1, which counts tokens.

    Weights of more than 2 GB are in a second file, ``model.onnx.data``.
    """

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "onnxruntime"
    variant: ClassVar[str] = "graph"
    runner: ClassVar[Path | None] = RUNNERS / "onnx_runner.py"

    graph: Literal["cached", "plain"] = Field(
        "cached", description="cached: decodes with a cache; plain: has none, so that every call reads all tokens."
    )

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return _refusal(checkpoint.config)

    def check_ready(self) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise BonsaiError(
                f"Exporting to ONNX needs {' and '.join(missing)}: install bonsai-prune[onnx], or pip install "
                f"{' '.join(missing)}."
            )

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        self.check_ready()
        from bonsai_plugins.exporters.onnx_graph import write_graph

        write_graph(checkpoint, out / FILE_NAME, cached=self.graph == "cached")
        copy_files(checkpoint.path, out, without=WEIGHTS)
        shutil.copyfile(Path(__file__).with_name("onnx_generate.py"), out / SCRIPT)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        return [f'python {shlex.quote(str(out / SCRIPT))} "The history of the bicycle"']

    def shapes(self, config: Any, family: Family) -> Shapes:
        reason = _refusal(config)
        if reason is not None:
            raise BonsaiError(f"onnxruntime cannot take this model, pruned or not: {reason}")
        return Shapes()


def _refusal(config: Any) -> str | None:
    """Why onnxruntime takes no model with this configuration; None if it does."""
    if getattr(config, "quantization_config", None):
        return "its weights are quantised, and only floating-point ones are exported. Export an unquantised one."
    if getattr(config, "alibi", False):
        return "transformers computes ALiBi's biases in bfloat16, which onnxruntime does not multiply on CPUs."
    return None
