"""How fast MLPs of a LLaMA are at widths that are, and are not, multiples of 8, 16, 32 and 64.

    python benchmarks/widths.py [--device cuda] [--hidden 576 2048] [--share 0.7] [--repeats 30]

Widths near a share of the dense one (8/3 of the hidden size) take turns, in a random order each time. A column is a
multiple, and no more than that: seconds per channel over those of multiples of 64, so that 1.1 means that such a width
wastes a tenth. On CPU the time is that of one thread while it ran, so that other work on the machine disturbs it less;
the median counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
NEIGHBOURS = 3
"""Widths of each multiple that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 2048])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1])
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| hidden | type | tokens | " + " | ".join(f"x{m}" for m in MULTIPLES) + " | ms at x64 |")
    print("| --- " * (4 + len(MULTIPLES)) + "|")
    for hidden in args.hidden:
        for dtype in args.dtypes:
            for tokens in args.tokens:
                row = relative(hidden, getattr(torch, dtype), tokens, args)
                print(f"| {hidden} | {dtype} | {tokens} | " + row, flush=True)


def relative(hidden: int, dtype: torch.dtype, tokens: int, args: argparse.Namespace) -> str:
    """The cells of a row."""
    centre = round(args.share * hidden * 8 / 3)
    odd = {m: [m * (2 * (centre // (2 * m)) + 1 + 2 * n) for n in range(-1, NEIGHBOURS - 1)] for m in MULTIPLES}
    widths = [width for each in odd.values() for width in each]
    layers = [mlp(hidden, width, dtype, args.device) for width in widths]
    x = torch.randn(tokens, hidden, device=args.device).to(dtype)
    inner = 1 if tokens > 1 else 20
    rng = np.random.default_rng(0)
    seconds = np.full((args.repeats, len(layers)), np.nan)
    for layer in layers:
        timed(layer, x, 3, args.device)
    for repeat in range(args.repeats):
        for index in rng.permutation(len(layers)):
            seconds[repeat, index] = timed(layers[index], x, inner, args.device)
    per_channel = np.median(seconds, axis=0) / widths
    by_multiple = dict(zip(MULTIPLES, per_channel.reshape(-1, NEIGHBOURS).mean(1), strict=True))
    cells = [f"{by_multiple[m] / by_multiple[64]:.2f}" for m in MULTIPLES]
    return " | ".join([*cells, f"{by_multiple[64] * centre * 1e3:.3f}"]) + " |"


def mlp(hidden: int, width: int, dtype: torch.dtype, device: str) -> Callable[[Tensor], Tensor]:
    gate, up = (torch.randn(width, hidden, device=device).to(dtype) for _ in range(2))
    down = torch.randn(hidden, width, device=device).to(dtype)
    return lambda x: linear(silu(linear(x, gate)) * linear(x, up), down)


@torch.inference_mode()
def timed(layer: Callable[[Tensor], Tensor], x: Tensor, times: int, device: str) -> float:
    """Seconds of one call."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.thread_time
    start = clock()
    for _ in range(times):
        layer(x)
    if cuda:
        torch.cuda.synchronize()
    return (clock() - start) / times


if __name__ == "__main__":
    main()
