"""Experts of a mixture as units: sub-models that lack some, what each is used for, and their removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.storage.offloaded import changed


class Experts(Mixture):
    """Units are experts, each with its row of the router that chooses among them."""

    def __init__(self, layer: nn.Module, declared: ExpertsSite, load: Callable[[str], Tensor]) -> None:
        super().__init__(layer, declared, load)
        of_router = (f"{declared.router}.{name}" for name in declared.router_weights)
        self.parameters = (*(f"{declared.module}.{name}" for name in declared.weights), *of_router)

    @contextmanager
    def without(self, stay: Tensor) -> Iterator[None]:
        """Tokens are sent to the experts that stay."""
        router = self._layer.get_submodule(self._declared.router)
        with ExitStack() as stack:
            stack.callback(router.register_forward_hook(_renumber(stay)).remove)
            for name in self._declared.router_weights:
                stack.enter_context(changed(router, name, partial(_of, stay)))
            yield

    def cut(self, parameter: str, whole: Tensor, stay: Tensor) -> Tensor:
        return _of(stay, whole)

    def slice(self, stay: Tensor) -> None:
        super().slice(stay)
        for path in (self._declared.module, self._declared.router):
            holder: Any = self._layer.get_submodule(path)
            holder.num_experts = len(stay)

    def weight(self) -> Tensor:
        """Norms of the rows of each expert's output projection."""
        projection = self._load(f"{self._declared.module}.{self._declared.weights[-1]}").detach()
        return torch.stack([expert.float().norm(dim=-1) for expert in projection], dim=1)[..., None]

    def use(self, args: tuple[Any, ...]) -> Tensor:
        """The weight that each expert gets."""
        hidden, chosen, weights = args
        used: Tensor = weights.new_zeros(len(weights), self.module.num_experts).scatter_(1, chosen, weights)
        return used.to(hidden.dtype)


def _of(stay: Tensor, weight: Tensor) -> Tensor:
    return weight.index_select(0, stay.to(weight.device))


def _renumber(stay: Tensor) -> Any:
    """Turns numbers among those that stay, which the router returns, into numbers among all."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
        logits, weights, chosen = output
        return logits, weights, stay.to(chosen.device)[chosen]

    return hook
