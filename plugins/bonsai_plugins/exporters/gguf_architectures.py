"""llama.cpp's architectures whose layers may differ in width."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures whose layers may differ in width, as its code was read and tried.

    Attributes:
        name: in llama.cpp.
        model_types: whose layers it computes.
        whole: every layer needs an attention and an MLP; emptied ones become zeros. Otherwise the first layer needs an
            attention, from which the size of a head is read; one with attention needs an MLP, without which its output
            would be dropped; and the last one needs either.
        pairs: rotary embeddings turn neighbouring channels, so that rows of queries and keys are in another order.
        biases: projections may have them.
        fused: queries, keys and values are one matrix.
        tied: the output embeddings are always the input embeddings.
        rope: types of rotary embeddings that it computes.
    """

    name: str
    model_types: tuple[str, ...]
    whole: bool = False
    pairs: bool = False
    biases: bool = False
    fused: bool = False
    tied: bool = False
    rope: tuple[str, ...] = ("default", "linear", "yarn")


DECI = Architecture(
    "deci",
    ("llama", "mistral", "qwen2"),
    pairs=True,
    biases=True,
    rope=("default", "linear", "yarn", "llama3"),
)
OPENELM = Architecture("openelm", ("qwen3",), whole=True, fused=True, tied=True)
FREE = {kind: architecture for architecture in (DECI, OPENELM) for kind in architecture.model_types}
