"""Families built like LLaMA, with separate q/k/v projections and a gated MLP, which are a declaration's defaults."""

from bonsai_core import Family

LLAMA = Family(name="llama", model_types=("llama", "mistral"), title="LLaMA 1 to 3, Mistral")
QWEN = Family(name="qwen", model_types=("qwen2", "qwen3"), title="Qwen2, Qwen2.5, Qwen3")
GEMMA = Family(
    name="gemma",
    model_types=("gemma", "gemma2", "gemma3_text"),
    title="Gemma 1 to 3 (text)",
    starts_with_bos=True,
)
GRANITE = Family(name="granite", model_types=("granite",), title="Granite")
SMOLLM3 = Family(name="smollm3", model_types=("smollm3",), title="SmolLM3")
OLMO2 = Family(
    name="olmo2",
    model_types=("olmo2",),
    title="OLMo-2",
    attention=None,
    why="queries and keys are normalised over all heads together, so that removing one changes the others",
)
