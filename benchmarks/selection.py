"""How long does selection take on a large model? Times it on the unit table of LLaMA-3-8B, with random importances.

python benchmarks/selection.py --sparsity 0.1 0.5 --seeds 3
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from bonsai_core.selection.limits import multiples
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import select
from bonsai_core.selection.swaps import Swaps
from bonsai_core.units import Site, SiteKind, UnitTable

LAYERS, HIDDEN, HEAD = 32, 4096, 128
GROUP_PARAMS, CHANNEL_PARAMS, NORMS = (2 * 4 + 2) * HEAD * HIDDEN, 3 * HIDDEN, 2 * HIDDEN
EMBEDDINGS = 2 * 128_256 * HIDDEN + HIDDEN
RULES = {
    "default": Rules(rank="density"),
    "round_to 64": Rules(rank="density", round_to=multiples(64)),
    "uniform": Rules(rank="density", shapes="uniform"),
    "sublayers and layers too": Rules(rank="density", units=("attention", "mlp", "sublayer", "layer")),
}


def llama(*, layers_leave: bool) -> UnitTable:
    """8 KV groups, each with its 4 query heads, and 14,336 channels in each of 32 layers."""
    sizes: list[tuple[SiteKind, int, int, int]] = [
        ("attention", 8, GROUP_PARAMS, 4 * HEAD),
        ("mlp", 14_336, CHANNEL_PARAMS, 1),
    ]
    sizes += [("layer", 1, NORMS, 0)] if layers_leave else []
    sites: list[Site] = []
    for layer in range(LAYERS):
        for kind, num_units, params, channels in sizes:
            first = sites[-1].units.stop if sites else 0
            sites.append(Site(f"layers.{layer}.{kind}", layer, kind, first, num_units, params, channels))
    decoder = LAYERS * (8 * GROUP_PARAMS + 14_336 * CHANNEL_PARAMS + NORMS)
    return UnitTable(tuple(sites), decoder, decoder + EMBEDDINGS)


def problem(rules: Rules, sparsity: float, unmeasured: float, seed: int) -> SelectionProblem:
    """Importances as a regression gives them: noisy, about as large as the unit, and of wholes their units' sums."""
    table, rng = llama(layers_leave="layer" in rules.units), np.random.default_rng(seed)
    layer_U = np.repeat(rng.uniform(0.2, 1.8, len(table.sites)), [site.num_units for site in table])
    importance_U = table.cost_U * layer_U * rng.normal(1.0, 1.0, len(table))
    whole_W = np.array([importance_U[whole.units].sum() for whole in rules.wholes(table)])
    importance_U[rng.random(len(table)) < unmeasured] = np.nan
    return SelectionProblem(table, table.keep_all(), importance_U, rng.random(len(table)), sparsity, rules, whole_W)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--unmeasured", type=float, default=0.0, help="share of units without an importance")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| rules | sparsity | units | select, CPU s | eight swaps, CPU s |\n| --- | ---: | ---: | --- | --- |")
    for name, rules in RULES.items():
        for sparsity in given.sparsity:
            seconds: list[tuple[float, float]] = []
            for seed in range(given.seeds):
                posed = problem(rules, sparsity, given.unmeasured, seed)
                start = time.process_time()
                keep_U = select(posed)
                selected = time.process_time()
                swaps, rng = Swaps(replace(posed, whole_importance_W=None)), np.random.default_rng(seed)
                for _ in range(8):
                    swaps.propose(keep_U, 2, rng)
                seconds.append((selected - start, time.process_time() - selected))
            columns = [" ".join(f"{second:.2f}" for second in column) for column in zip(*seconds, strict=True)]
            print(f"| {name} | {sparsity:g} | {len(posed.table):,} | {columns[0]} | {columns[1]} |", flush=True)


if __name__ == "__main__":
    main()
