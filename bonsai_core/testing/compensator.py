"""The laws of compensators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Compensator, LayerCompensator, Removal, Repair, TextCompensator, WeightCompensator
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng, statistic_of, unchanged

ROUNDING = 1e-5
TOKENS, OUT = 96, 10


class CompensatorContract(ComponentContract[Compensator]):
    """Inherit, and let `make` return the compensator."""

    def test_repairs_fit_what_is_kept(self) -> None:
        for units, channels in ((48, 1), (3, 16)):
            inputs, weight, keep = _example(units, channels)
            repair = repaired(self.make(), [inputs], weight, keep)
            wanted = {"weight": (OUT, int(keep.sum()), channels), "bias": (OUT,)}
            for name, given in _given(repair).items():
                assert given.shape == wanted[name], f"a {name} of {wanted[name]} is expected, not {tuple(given.shape)}"
                assert given.isfinite().all(), f"not finite: {given}"

    def test_what_is_not_announced_is_not_given(self) -> None:
        compensator = self.make()
        inputs, weight, keep = _example()
        repair = repaired(compensator, [inputs], weight, keep)
        assert repair.weight is None or compensator.changes_weights, "a weight was given; set changes_weights = True"
        assert repair.bias is None or compensator.adds_bias, "a bias was given; set adds_bias = True"

    def test_keeping_all_changes_nothing(self) -> None:
        inputs, weight, keep = _example()
        repair = repaired(self.make(), [inputs], weight, torch.ones_like(keep))
        assert repair.bias is None or not repair.bias.any(), f"nothing was removed, and the bias changed: {repair.bias}"
        assert repair.weight is None or torch.equal(repair.weight.float(), weight), "nothing was removed"

    def test_keeping_nothing_is_no_error(self) -> None:
        inputs, weight, keep = _example()
        repair = repaired(self.make(), [inputs], weight, torch.zeros_like(keep))
        assert all(given.isfinite().all() for given in _given(repair).values()), "not finite"

    def test_splitting_the_batches_changes_nothing(self) -> None:
        inputs, weight, keep = _example()
        whole = _given(repaired(self.make(), [inputs], weight, keep))
        split = _given(repaired(self.make(), list(torch.split(inputs, [1, 31, 64])), weight, keep))
        for name, given in whole.items():
            torch.testing.assert_close(split[name], given, rtol=ROUNDING, atol=ROUNDING)

    def test_permuting_what_is_kept_permutes_the_repair(self) -> None:
        inputs, weight, keep = _example()
        order = torch.arange(11, -1, -1)
        given = _given(repaired(self.make(), [inputs], weight, keep))
        permuted = _given(repaired(self.make(), [inputs[:, order]], weight[:, order], keep[order]))
        if "weight" in given:
            given["weight"] = given["weight"].flip(1)
        for name, expected in given.items():
            torch.testing.assert_close(permuted[name], expected, rtol=ROUNDING, atol=ROUNDING)

    def test_repair_never_moves_the_output_further_away(self) -> None:
        inputs, weight, keep = _example()
        repair = repaired(self.make(), [inputs], weight, keep)
        dense = torch.einsum("tuc,ouc->to", inputs.double(), weight.double())

        def error(kept_weight: Tensor, bias: Tensor | None) -> Tensor:
            output = torch.einsum("tuc,ouc->to", inputs[:, keep].double(), kept_weight.double())
            return (output + (0 if bias is None else bias.double()) - dense).square().mean()

        before = error(weight[:, keep], None)
        after = error(weight[:, keep] if repair.weight is None else repair.weight, repair.bias)
        assert after <= before * (1 + ROUNDING), f"squared error {before:.4g} before repair, {after:.4g} after"

    def test_making_up_for_layers_brings_the_output_closer(self) -> None:
        compensator = self.make()
        if not isinstance(compensator, LayerCompensator):
            return
        inputs, weight, _ = _example()
        added = torch.einsum("tuc,ouc->to", inputs, weight.flip(0)).tanh()  # what layers would have added
        missing = torch.einsum("to,tuc->ouc", added, inputs)
        statistic = statistic_of(compensator, [inputs])
        with unchanged(weight=weight, missing=missing, total=statistic.total), torch.inference_mode():
            new = compensator.make_up(weight, statistic, missing)
            nothing = compensator.make_up(weight, statistic, torch.zeros_like(missing))
        assert new.shape == weight.shape, f"a weight of {tuple(weight.shape)} is expected, not {tuple(new.shape)}"
        assert torch.equal(nothing, weight), "nothing was missing, and the weight changed"
        closer = torch.einsum("tuc,ouc->to", inputs.double(), (new - weight).double())
        before, after = added.double().square().mean(), (added.double() - closer).square().mean()
        assert after <= before * (1 + ROUNDING), f"squared error {before:.4g} before, {after:.4g} after"

    def test_what_it_is_given_is_not_changed(self) -> None:
        inputs, weight, keep = _example()
        compensator = self.make()
        with unchanged(inputs=inputs, weight=weight, keep=keep), torch.inference_mode():
            if isinstance(compensator, TextCompensator):
                statistic = statistic_of(compensator, [inputs])
                with unchanged(total=statistic.total):
                    compensator.repair(Removal(weight, keep), statistic)
            else:
                repaired(compensator, [inputs], weight, keep)

    def test_no_global_rng_is_read(self) -> None:
        def all_numbers() -> NDArray[np.float64]:
            inputs, weight, keep = _example()
            given = _given(repaired(self.make(), [inputs], weight, keep))
            return np.concatenate([np.zeros(1), *(tensor.double().flatten().numpy() for tensor in given.values())])

        assert_no_global_rng(all_numbers)


def repaired(compensator: Compensator, batches: Sequence[Tensor], weight: Tensor, keep: Tensor) -> Repair:
    """The repair, computed as the engine does: from statistics summed over batches."""
    removal = Removal(weight, keep)
    with torch.inference_mode():
        if isinstance(compensator, TextCompensator):
            return compensator.repair(removal, statistic_of(compensator, batches))
        kinds = "inherit WeightCompensator, InputCompensator or MomentCompensator"
        assert isinstance(compensator, WeightCompensator), kinds
        return compensator.repair(removal)


def _given(repair: Repair) -> dict[str, Tensor]:
    """What a repair holds."""
    both = {"weight": repair.weight, "bias": repair.bias}
    return {name: tensor for name, tensor in both.items() if tensor is not None}


def _example(units: int = 12, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [tokens, units, channels] with means, a weight [out, units, channels], and which half of it is kept."""
    generator = torch.Generator().manual_seed(units)
    mean = torch.randn(units, channels, generator=generator)
    inputs = mean + torch.randn(TOKENS, units, channels, generator=generator)
    return inputs, torch.randn(OUT, units, channels, generator=generator), torch.arange(units) % 2 == 0
