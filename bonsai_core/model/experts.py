"""Mixtures of experts: sub-models that lack some, what each is used for, and their removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite
from bonsai_core.model.pages import give_back


class Experts:
    """The experts of one decoder layer, and the router that chooses among them.

    Args:
        layer: the decoder layer.
        declared: where they are.
    """

    def __init__(self, layer: nn.Module, declared: ExpertsSite) -> None:
        self.module: Any = layer.get_submodule(declared.module)
        self._router: Any = layer.get_submodule(declared.router)
        self._declared = declared

    @contextmanager
    def without(self, stay: Tensor) -> Iterator[None]:
        """The layer as it is with only some of its experts: tokens are sent to others.

        Args:
            stay: numbers of those experts that stay, int64.
        """
        router, names = self._router, self._declared.router_weights
        before = {name: getattr(router, name) for name in names}
        handle = router.register_forward_hook(_renumber(stay))
        try:
            for name, weight in before.items():
                setattr(router, name, _of(weight, stay))
            yield
        finally:
            handle.remove()
            for name, weight in before.items():
                setattr(router, name, weight)

    def slice(self, stay: Tensor) -> None:
        """Remove all other experts, in place, one parameter at a time."""
        for module, names in ((self.module, self._declared.weights), (self._router, self._declared.router_weights)):
            for name in names:
                whole = getattr(module, name)
                setattr(module, name, _of(whole, stay))
                give_back(whole.data)
            module.num_experts = len(stay)

    def weight(self) -> Tensor:
        """How strong each expert's output is: norms of the rows of its output projection, float32 [hidden, experts, 1].

        Taken for a site's output projection, with `use` for its input, an expert counts as one channel.
        """
        projection = getattr(self.module, self._declared.weights[-1]).detach()
        return torch.stack([expert.float().norm(dim=-1) for expert in projection], dim=1)[..., None]

    def use(self, args: tuple[Any, ...]) -> Tensor:
        """From what the experts are called with: the weight that each gets for each token, [tokens, experts]."""
        hidden, chosen, weights = args
        used: Tensor = weights.new_zeros(len(weights), self.module.num_experts).scatter_(1, chosen, weights)
        return used.to(hidden.dtype)


def _of(weight: nn.Parameter, stay: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().index_select(0, stay.to(weight.device)), weight.requires_grad)


def _renumber(stay: Tensor) -> Any:
    """Turns numbers among those that stay, which the router returns, into numbers among all."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
        logits, weights, chosen = output
        return logits, weights, stay.to(chosen.device)[chosen]

    return hook
