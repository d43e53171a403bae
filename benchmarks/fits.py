"""How long do the fits of a round take on a large model, and how much memory? Random planted problems.

python benchmarks/fits.py --estimators ridge lasso bayes hierarchical --seeds 1

`unit`: every sub-model drops units of its own, each with the same probability. `windows`: units leave in windows, so
few patterns are distinct. Each problem runs in a process of its own; the peak is of its resident memory, keep vectors
and libraries included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from bonsai_core import Registry
from bonsai_core.config import PluginChoice
from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.estimate import Measured, estimate
from bonsai_core.units import Site, UnitTable

DROPPED, NOISE = 0.1, 0.1


@dataclass(frozen=True)
class Size:
    """A random problem: equally wide sites, from which windows of units leave."""

    submodels: int
    sites: int
    units_per_site: int
    window: int
    seed: int


@dataclass(frozen=True)
class Result:
    """What `estimate` cost, and Kendall's tau: to the planted importances, and the one that it reports itself."""

    seconds: float
    cpu_seconds: float
    before_bytes: int
    peak_bytes: int
    planted_tau: float
    held_out_tau: float


def posed(size: Size) -> tuple[SampleRequest, Measured]:
    """Pairs of sub-models, and utilities that are the sum of what they keep, plus noise."""
    rng, num_units = np.random.default_rng(size.seed), size.sites * size.units_per_site
    sites = tuple(
        Site(f"layers.{i}.mlp", i, "mlp", i * size.units_per_site, size.units_per_site, 3 * 4096, 1)
        for i in range(size.sites)
    )
    params = num_units * 3 * 4096
    windows_U = np.arange(num_units) // size.window
    keep_MU = np.empty((size.submodels, num_units), dtype=bool)
    for keep_U in keep_MU:
        keep_U[:] = (rng.random(windows_U[-1] + 1) >= DROPPED)[windows_U]
    truth_U = planted(size)
    exact_M = np.array([truth_U[keep_U].sum() for keep_U in keep_MU])
    utility_M = exact_M + NOISE * exact_M.std() * rng.standard_normal(size.submodels)
    prior_U = truth_U * rng.lognormal(sigma=1.0, size=num_units)
    request = SampleRequest(
        UnitTable(sites, params, params),
        np.ones(num_units, dtype=bool),
        prior_U,
        0.1,
        size.submodels,
        np.ones(size.sites, np.int64),
    )
    group_M = np.arange(size.submodels) // 2
    return request, Measured(keep_MU, np.ones(num_units, dtype=bool), utility_M, group_M, 0, False)


def planted(size: Size) -> NDArray[np.float64]:
    """Importances: sites differ by a factor, and units within them."""
    rng = np.random.default_rng([size.seed, 1])
    per_site_S = rng.lognormal(size=size.sites)
    return np.repeat(per_site_S, size.units_per_site) * rng.lognormal(size=size.sites * size.units_per_site)


def measured(name: str, size: Size) -> Result:
    """The whole of what the engine does between measuring and selecting."""
    estimator: Any = Registry().create("estimator", PluginChoice(name=name))
    estimate(estimator, *posed(Size(20, 2, 20, 1, 0)), print)  # imports
    request, measurements = posed(size)
    before, start, start_cpu = peak_bytes(), time.perf_counter(), time.process_time()
    found = estimate(estimator, request, measurements, print)
    seconds, cpu_seconds, peak = time.perf_counter() - start, time.process_time() - start_cpu, peak_bytes()
    tau = float(kendalltau(found.importance_U, planted(size), nan_policy="omit").statistic)
    held_out_tau = float("nan") if found.kendall_tau is None else found.kendall_tau
    return Result(seconds, cpu_seconds, before, peak, tau, held_out_tau)


def peak_bytes() -> int:
    """The largest resident memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", nargs="+", default=["ridge", "lasso", "bayes", "hierarchical"])
    parser.add_argument("--submodels", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=32)
    parser.add_argument("--units-per-site", type=int, default=11_040)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 368], help="units that leave together; 1: none")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    print("| estimator | patterns | seed | seconds | CPU s | peak, MB | before, MB | tau, planted | tau, held out |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for window in given.windows:
        for name in given.estimators:
            for seed in range(given.seeds):
                size = Size(given.submodels, given.sites, given.units_per_site, window, seed)
                with multiprocessing.get_context("spawn").Pool(1) as fresh:
                    result = fresh.apply(measured, (name, size))
                patterns = "every unit" if window == 1 else f"windows of {window}"
                numbers = [f"{result.seconds:.1f}", f"{result.cpu_seconds:.1f}", f"{result.peak_bytes / 1e6:,.0f}"]
                numbers += [f"{result.before_bytes / 1e6:,.0f}", f"{result.planted_tau:.2f}"]
                row = " | ".join([name, patterns, str(seed), *numbers, f"{result.held_out_tau:.2f}"])
                print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
