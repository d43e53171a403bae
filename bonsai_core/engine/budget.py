"""The budget of a run: what its target counts, as prices of the model's units."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.latency import TimedPass, cached_per_token
from bonsai_core.model.forward.layer_latency import latency_prices, measure_layers
from bonsai_core.model.sites.model_site import ModelSite
from bonsai_core.model.subject import Subject
from bonsai_core.selection.budget import Budget
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import UnreachableError, select
from bonsai_core.settings.quantities import TARGETS, share_rounded_up
from bonsai_core.units import Price, Site

HEADER_BYTES, HEADERS_BYTES = 128, 1024
"""Of safetensors files: what they say of a tensor besides its name at most, and of themselves."""

Prices = list[Price | NDArray[np.int64]]


@dataclass(frozen=True)
class Counted:
    """A dense model, as far as budgets count it.

    Attributes:
        subject: the model.
        dense_bytes: of its weights.
        adds_bias: whether the pruned model has a bias on every output projection.
    """

    subject: Subject
    dense_bytes: int
    adds_bias: bool

    def params(self) -> tuple[Prices, int]:
        """Parameters of the checkpoint."""
        table = self.subject.table
        return [self._with_biases(site) for site in table], table.total_params + sum(self._biases().values())

    def bytes(self) -> tuple[Prices, int]:
        """Bytes of the checkpoint's files of weights; no more than these, as their headers depend on digits."""
        prices, whole = self.params()
        table, model = self.subject.table, self.subject.model
        size = self.dense_bytes // table.total_params  # where types differ, hardly more than the smallest
        names = [name for name, _ in model.named_parameters()]
        if self.adds_bias:
            names += [name.removesuffix("weight") + "bias" for name in names]
        headers = HEADERS_BYTES + sum(len(name) + HEADER_BYTES for name in names)
        added = whole - table.total_params
        each = [Price(price.unit * size, price.rest * size) for price in prices if isinstance(price, Price)]
        return [*each], self.dense_bytes + added * (size + 1) + headers

    def kv(self) -> tuple[Prices, int]:
        """Bytes of the KV cache for a token that no window has left behind."""
        size, table = self.subject.model.dtype.itemsize, self.subject.table
        left = dict(zip(self.subject.layers_present(), cached_per_token(self.subject.model), strict=True))
        whole = sum(left.values())
        cached = self._of_sites(lambda site: site.cached_per_token())
        prices = [Price(price.unit * size, price.rest * size) for price in cached]
        for site, cost in zip(table, self._all(prices), strict=True):
            left[site.layer] -= cost
        of_layers = [Price(left[site.layer]) if site.leaves_with_layer else None for site in table]
        return [of_layer or price for of_layer, price in zip(of_layers, prices, strict=True)], whole

    def active(self) -> tuple[Prices, int]:
        """Parameters that one token's pass uses."""
        used = self._of_sites(lambda site: site.used_per_token())
        everything, table = [self._with_biases(site) for site in self.subject.table], self.subject.table
        prices = [
            everything[n] if site.leaves_with_layer else price
            for n, (site, price) in enumerate(zip(table, used, strict=True))
        ]
        idle = sum(self._all(everything)) - sum(self._all(prices))
        return [*prices], table.total_params + sum(self._biases().values()) - idle

    def _with_biases(self, site: Site) -> Price:
        """Biases that a repair adds stay with an emptied sub-layer, and leave with the layer."""
        added = self._biases()[site.layer] if site.leaves_with_layer else 0
        return Price(site.unit_params + added, site.rest_params)

    def _biases(self) -> Mapping[int, int]:
        """By layer, parameters of the biases that its output projections get."""
        added = dict.fromkeys(self.subject.layers_present(), 0)
        for site in self.subject.table if self.adds_bias else ():
            if site.has_output and (output := self.subject.output(site)).bias is None:
                added[site.layer] += output.out_features
        return added

    def _of_sites(self, price: Callable[[ModelSite], Price]) -> list[Price]:
        """A price of every site; nothing for what leaves with a layer."""
        subject = self.subject
        by_name = {
            found.site.name: price(found) for n in subject.layers_present() for found in subject.sites_of_layer(n)
        }
        return [by_name.get(site.name, Price(0)) for site in subject.table]

    def _all(self, prices: list[Price]) -> list[int]:
        """What all units of every site cost."""
        return [
            price.unit * site.num_units + price.rest for site, price in zip(self.subject.table, prices, strict=True)
        ]


def timed_pass(config: RunConfig) -> TimedPass:
    """The pass that a budget of time is about."""
    return TimedPass(config.latency_of == "decode", config.latency_batch, config.latency_tokens)


def measure_prices(config: RunConfig, subject: Subject) -> Mapping[str, Any] | None:
    """What a budget has to measure of the dense model, as plain data; None where nothing is.

    Raises:
        BonsaiError: the weights are not in memory, where they could be timed.
    """
    if config.target_latency is None:
        return None
    if not subject.in_place:
        raise BonsaiError(
            "--target-latency times the model as it is in memory: it needs --device-map none and --load-in full. "
            "Give --target-bytes or --target-params instead."
        )
    start = time.perf_counter()
    return {**measure_layers(subject, timed_pass(config)), "elapsed_s": time.perf_counter() - start}


def find_budget(config: RunConfig, counted: Counted, measured: Mapping[str, Any] | None) -> Budget:
    """What a run counts, and what has to leave.

    Args:
        measured: by `measure_prices`.

    Raises:
        BonsaiError: the dense model has no more than the target.
    """
    table = counted.subject.table
    if config.target is None:
        assert config.sparsity is not None
        return Budget(f"--sparsity {config.sparsity:g}", table, config.sparsity)
    pricing: Mapping[str, Callable[[], tuple[Prices, int]]] = {
        "target_params": counted.params,
        "target_bytes": counted.bytes,
        "target_kv": counted.kv,
        "target_active_params": counted.active,
        "target_latency": lambda: latency_prices(counted.subject, measured or {}),
    }
    target, text = TARGETS[config.target], getattr(config, config.target)
    option = f"--{config.target.replace('_', '-')} {text}"
    prices, whole = pricing[config.target]()
    amount = target.quantity.parse(text)
    fraction = amount.leaving(whole)
    if fraction <= 0:
        raise BonsaiError(f"{option}: the dense model has no more than that ({target.shown(whole)}). Give less.")
    return Budget(option, table.priced(prices, whole), fraction, target, amount.relative)


def check_budget(budget: Budget, rules: Rules) -> None:
    """Selecting without any importance tells whether the budget can be met at all.

    Raises:
        BonsaiError: it cannot; the message says what the least is.
    """
    if not rules.units:
        raise BonsaiError(
            f"{budget.option}: no unit of these kinds reduces it. Give others with --units: attention and layer reduce "
            f"all that can be counted."
        )
    table, unmeasured_U = budget.table, np.full(len(budget.table), np.nan)
    problem = SelectionProblem(table, table.keep_all(), unmeasured_U, np.zeros(len(table)), budget.fraction, rules)
    try:
        select(problem)
    except UnreachableError as error:
        if budget.target is None:
            raise
        least = budget.left(error.least_U)
        raise BonsaiError(
            f"{budget.option} cannot be met: with {rules.describe()} at least "
            f"{budget.target.quantity.exact(least)} are left, {share_rounded_up(least, budget.whole)} of the dense "
            f"model's {budget.target.shown(budget.whole)}."
        ) from None
