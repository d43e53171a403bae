"""What Bonsai asks of a causal LM, whoever built it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn


class CausalLM(Protocol):
    """The part of transformers' `PreTrainedModel` that forward passes use.

    Attributes:
        config: its configuration.
        base_model: gives the last hidden states, [batch, tokens, hidden], of ``input_ids``.
        dtype: type of its weights.
    """

    config: Any

    @property
    def base_model(self) -> Callable[..., Any]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool) -> Any: ...

    def get_output_embeddings(self) -> nn.Linear: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
