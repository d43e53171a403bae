"""The laws of compensators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bonsai_core.contracts import Compensator, Removal
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng

ROUNDING = 1e-5
TOKENS, OUT = 96, 10


class CompensatorContract(ComponentContract[Compensator]):
    """Inherit, and let `make` return the compensator."""

    def test_one_finite_number_per_output(self) -> None:
        for units, channels in ((48, 1), (3, 16)):
            inputs, weight, keep = _example(units, channels)
            bias = repaired(self.make(), [inputs], weight, keep)
            assert bias.shape == (OUT,), f"{OUT} outputs got a bias of shape {tuple(bias.shape)}"
            assert bias.isfinite().all(), f"not finite: {bias}"

    def test_keeping_all_changes_nothing(self) -> None:
        inputs, weight, keep = _example(12, 4)
        bias = repaired(self.make(), [inputs], weight, torch.ones_like(keep))
        assert not bias.any(), f"nothing was removed, and the bias changed by {bias}"

    def test_splitting_the_batches_changes_nothing(self) -> None:
        inputs, weight, keep = _example(12, 4)
        whole = repaired(self.make(), [inputs], weight, keep)
        split = repaired(self.make(), list(torch.split(inputs, [1, 31, 64])), weight, keep)
        torch.testing.assert_close(split, whole, rtol=ROUNDING, atol=ROUNDING)

    def test_repair_never_moves_the_output_further_away(self) -> None:
        inputs, weight, keep = _example(12, 4)
        bias = repaired(self.make(), [inputs], weight, keep)
        lost = torch.einsum("tuc,ouc->to", inputs[:, ~keep].double(), weight[:, ~keep].double())
        before, after = lost.square().mean(), (lost - bias.double()).square().mean()
        assert after <= before * (1 + ROUNDING), f"squared error {before:.4g} before repair, {after:.4g} after"

    def test_what_it_is_given_is_not_changed(self) -> None:
        inputs, weight, keep = _example(12, 4)
        before = inputs.clone(), weight.clone(), keep.clone()
        repaired(self.make(), [inputs], weight, keep)
        for name, now, then in zip(("inputs", "weight", "keep"), (inputs, weight, keep), before, strict=True):
            assert torch.equal(now, then), f"{name} was changed in place"

    def test_no_global_rng_is_read(self) -> None:
        inputs, weight, keep = _example(12, 4)
        assert_no_global_rng(lambda: repaired(self.make(), [inputs], weight, keep).numpy())


def repaired(compensator: Compensator, batches: Sequence[Tensor], weight: Tensor, keep: Tensor) -> Tensor:
    """The bias, computed as the engine does: statistics summed over batches in float64."""
    with torch.inference_mode():
        total = torch.stack([compensator.accumulate(batch).double() for batch in batches]).sum(dim=0)
        return compensator.bias(Removal(weight, keep, total, sum(len(batch) for batch in batches)))


def _example(units: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [tokens, units, channels] whose means are not zero, a weight [out, units, channels], half of it kept."""
    generator = torch.Generator().manual_seed(units)
    mean = torch.randn(units, channels, generator=generator)
    inputs = mean + torch.randn(TOKENS, units, channels, generator=generator)
    return inputs, torch.randn(OUT, units, channels, generator=generator), torch.arange(units) % 2 == 0
