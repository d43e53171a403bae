"""Built-in exporters."""

from bonsai_core import Exporter, hookimpl
from bonsai_plugins.exporters.gguf import Gguf
from bonsai_plugins.exporters.hf import HuggingFace
from bonsai_plugins.exporters.mlx import Mlx
from bonsai_plugins.exporters.onnx import Onnx
from bonsai_plugins.exporters.plan import Plan
from bonsai_plugins.exporters.stock import Stock
from bonsai_plugins.exporters.vllm import Vllm


@hookimpl
def bonsai_exporters() -> list[type[Exporter]]:
    return [HuggingFace, Gguf, Mlx, Onnx, Plan, Stock, Vllm]
