"""Experts of a mixture as units."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.storage.offloaded import changed, fetched
from bonsai_core.model.structure.channels import numbers_of
from bonsai_core.model.structure.declared import declared_count, declared_module
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import Price, Site, SiteKind


@final
class Experts(Mixture):
    """A unit is an expert, with its row of the router that chooses among them.

    Without some rows, routers weight the experts that stay as if there had never been others. In all families here
    (transformers 5.24) the weights are a softmax over all experts of the layer, of which the chosen ones' are divided
    by their sum in Mixtral, and elsewhere with `norm_topk_prob`. Without it the chosen ones also take over the share of
    experts that left, so the mixture's output grows; it is left so, for that is what the stock classes compute, and
    what sub-models are measured with.

    Priors see an expert as one channel: what is read is the norm of what the expert adds to a token, divided by the
    norm of its output projection, and 0 where a token is not sent to it; the weight has the norms of the projection's
    rows. So the norm of weight times input is that of the expert's part of the mixture's output.

    Legend for array shapes: E = experts, T = tokens, K = experts that a token is sent to.
    """

    kind: ClassVar[SiteKind] = "experts"

    @classmethod
    def declare(cls, layer: DecoderLayer, first: int, family: Family, config: Any) -> Site:
        declared = cls.declared(family)
        count, price = declared_count(config, declared.count_field, family), 0
        for module, names in ((declared.module, declared.weights), (declared.router, declared.router_weights)):
            for name in names:
                weight = getattr(declared_module(layer.module, module, family), name, None)
                if not isinstance(weight, nn.Parameter) or len(weight) != count:
                    raise BonsaiError(
                        f"{module}.{name} is not a parameter of {count} experts; the family {family.name!r} "
                        f"does not fit."
                    )
                price += weight.numel() // count
        minimum = declared_count(config, declared.per_token_field, family)
        name = f"layers.{layer.number}.{cls.kind}"
        return Site(name, layer.number, cls.kind, first, count, price, 1, minimum=minimum)

    @classmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        return {cls.declared(family).count_field: count}

    def used_per_token(self) -> Price:
        """The router and as many experts as a token is sent to: with an expert less they are as many."""
        used, number = self._share_used()
        expert = self._expert_params()
        return Price(0, number * (self.site.unit_params - expert) + used * expert)

    def idle_params(self, keep: NDArray[np.bool_]) -> int:
        used, _ = self._share_used()
        return (int(keep.sum()) - used) * self._expert_params()

    @contextmanager
    def masked(self, keep: NDArray[np.bool_]) -> Iterator[None]:
        """Tokens are sent to the experts that are kept."""
        declared, kept = self.declared(self.family), numbers_of(keep)
        router = self.layer.module.get_submodule(declared.router)
        with ExitStack() as stack:
            stack.callback(router.register_forward_hook(_renumber(kept)).remove)
            for name in declared.router_weights:
                stack.enter_context(changed(router, name, partial(_rows, kept)))
            yield

    def _expert_params(self) -> int:
        """Parameters of an expert, without its row of the router."""
        weights = [getattr(self.experts, name) for name in self.declared(self.family).weights]
        return sum(weight.numel() // len(weight) for weight in weights)

    def _parameters(self) -> tuple[str, ...]:
        declared = self.declared(self.family)
        of_router = (f"{declared.router}.{name}" for name in declared.router_weights)
        return (*(f"{declared.module}.{name}" for name in declared.weights), *of_router)

    def _without(self, path: str, whole: Tensor, kept: Tensor) -> Tensor:
        return _rows(kept, whole)

    def _resize(self, count: int) -> None:
        declared = self.declared(self.family)
        for path in (declared.module, declared.router):
            holder: Any = self.layer.module.get_submodule(path)
            holder.num_experts = count

    def _weight(self) -> Tensor:
        """Norms of the rows of each expert's output projection."""
        declared = self.declared(self.family)
        projection = self.storage.parameter(self.layer, f"{declared.module}.{declared.weights[-1]}")
        return torch.stack([expert.float().norm(dim=-1) for expert in projection], dim=1)[..., None]

    def _use(self, args: tuple[Any, ...]) -> Tensor:
        """See the class; float32 [T, E]. The experts compute once more, for one of a token's experts at a time."""
        hidden, chosen_TK, weights_TK = args
        projection = fetched(self.experts, self.declared(self.family).weights[-1])
        used_TE = hidden.new_zeros((len(hidden), len(projection)), dtype=torch.float32)
        for chosen_T1, weights_T1 in zip(chosen_TK.split(1, dim=1), weights_TK.split(1, dim=1), strict=True):
            output = self.experts.forward(hidden, chosen_T1, torch.ones_like(weights_T1))  # without its hooks
            norm_T1 = torch.linalg.vector_norm(output, dim=1, keepdim=True, dtype=torch.float32)
            used_TE.scatter_(1, chosen_T1, norm_T1 * weights_T1.float())
        sizes = torch.ones(len(projection), device=hidden.device)
        for number in chosen_TK.unique().tolist():  # others may not be there
            sizes[number] = torch.linalg.vector_norm(projection[number], dtype=torch.float32)
        size_TE: Tensor = used_TE / sizes.clamp(min=torch.finfo(torch.float32).tiny)
        return size_TE


def _rows(kept: Tensor, weight: Tensor) -> Tensor:
    return weight.index_select(0, kept.to(weight.device))


def _renumber(kept: Tensor) -> Any:
    """Turns numbers among the experts kept, which the router returns, into numbers among all."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
        logits, weights, chosen = output
        return logits, weights, kept.to(chosen.device)[chosen]

    return hook
