"""Semi-structured 2:4 sparsity (as of Wanda, Sun et al. 2023) beside narrower matrices, timed on CUDA.

    python benchmarks/semi_structured.py [--hidden 2048 4096] [--tokens 1 16 512 4096] [--repeats 30]

MLPs of a LLaMA: dense; with two of four weights removed (torch.sparse.to_sparse_semi_structured); and with half of
the channels removed, as structured pruning does. All three take turns. Which weights stay decides the quality, and
nothing of the time: here it is the largest of each four. It needs a GPU of compute capability 8.0 or later. It has
not been run yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.sparse import to_sparse_semi_structured

from bonsai_core.model.forward.turns import spread, take_turns

OLDEST = (8, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 512, 4096])
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < OLDEST:
        raise SystemExit("2:4 sparsity needs a CUDA GPU of compute capability 8.0 or later, and there is none here.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16; times as fast as dense, quartiles\n")
    print("| hidden | tokens | dense, ms | 2:4 | half the channels |\n| --- | --- | --- | --- | --- |")
    for hidden in args.hidden:
        width = hidden * 8 // 3 // 128 * 128
        mlps = [Mlp(hidden, width), Mlp(hidden, width).semi_structured(), Mlp(hidden, width // 2)]
        for tokens in args.tokens:
            x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
            seconds_SR = take_turns([timed(mlp, x) for mlp in mlps], args.repeats)[:, :, 0]
            cells = [shown(seconds_SR[0] / seconds_R) for seconds_R in seconds_SR[1:]]
            print(f"| {hidden} | {tokens} | {np.median(seconds_SR[0]) * 1e3:.3f} | {' | '.join(cells)} |", flush=True)


class Mlp(nn.Module):
    """Gate, up and down, in bfloat16 on CUDA."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        options: Any = {"bias": False, "device": "cuda", "dtype": torch.bfloat16}
        self.gate, self.up = nn.Linear(hidden, width, **options), nn.Linear(hidden, width, **options)
        self.down = nn.Linear(width, hidden, **options)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(silu(self.gate(x)) * self.up(x))
        return down

    @torch.no_grad()
    def semi_structured(self) -> Mlp:
        """The same with the two largest weights of each four, stored as the kernels want it."""
        for linear in (self.gate, self.up, self.down):
            fours = linear.weight.reshape(-1, 4)
            kept = torch.zeros_like(fours).scatter(1, fours.abs().topk(2, dim=1).indices, 1.0)
            weight = (fours * kept).reshape(linear.weight.shape)
            linear.weight = nn.Parameter(to_sparse_semi_structured(weight), requires_grad=False)
        return self


def timed(mlp: Mlp, x: Tensor) -> Callable[[int], tuple[float]]:
    """Seconds of a forward pass, by the GPU's own clock."""

    @torch.inference_mode()
    def once(turn: int) -> tuple[float]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        mlp(x)
        end.record()
        torch.cuda.synchronize()
        return (start.elapsed_time(end) / 1e3,)

    return once


def shown(ratios_R: NDArray[np.float64]) -> str:
    found = spread(ratios_R)
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


if __name__ == "__main__":
    main()
