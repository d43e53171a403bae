"""A short search around the regression's answer, by measuring finished rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.plan import FINALISTS, FIRST_HEAT, OFFSPRING
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.setup import Workspace
from bonsai_core.events import Event, Stage, StageStarted, TokensDone
from bonsai_core.model.forward.passes import DenseSide, Passes
from bonsai_core.model.forward.probe import CalibrationData, ModelProbe
from bonsai_core.rundir import Journal
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.swaps import Swaps

SEARCH_STREAM = 2
MOST_SWAPS = 3


class Search:
    """Evolution by swaps of budget between sites, in tournaments over more and more text.

    Every generation swaps budget between a few sites, in the directions that cost least by the regression; all
    offspring are measured on a little text of the search's own, the best of them on all of it, and one that beats what
    there was takes its place. Sieberling et al. 2024 (EvoPress), arXiv:2410.14649; where we differ: the regression
    gives the start and proposes, and sub-models are measured as repaired.

    Args:
        work: what the run works with.
        passes: forward passes over its subject.
        repairs: the round's.
        journal: where values go.
        observe: told every event.
        dense: the dense model's side of the search's text, per draw; none if the metric needs none.
    """

    def __init__(
        self,
        work: Workspace,
        passes: Passes,
        repairs: Repairs,
        journal: Journal,
        observe: Callable[[Event], None],
        dense: tuple[DenseSide, ...],
    ) -> None:
        self._work = work
        self._passes = passes
        self._repairs = repairs
        self._journal = journal
        self._observe = observe
        self._dense = dense

    def refine(
        self,
        number: int,
        request: SampleRequest,
        importance_U: NDArray[np.float64],
        keep_U: NDArray[np.bool_],
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """The best keep vector found in round `number`, from the regression's on; and numbers for the report."""
        work, generations = self._work, self._work.config.search
        target = work.plan.targets[number - 1]
        swaps = Swaps(
            SelectionProblem(request.table, request.alive_U, importance_U, request.prior_U, target, work.rules)
        )
        windows_NT = work.calibration.search[work.draw_of(number)].windows_NT
        few = len(windows_NT) // FIRST_HEAT
        best_U, best = keep_U, self._utility(number, "start", keep_U, len(windows_NT))
        found = {"search_start": best, "search_end": best, "search_improved": 0}
        for generation in range(generations):
            self._observe(StageStarted(Stage.SEARCH, number, f"search, generation {generation + 1} of {generations}"))
            rng = np.random.default_rng([work.config.seed, number, SEARCH_STREAM, generation])
            offspring = [swaps.propose(best_U, int(rng.integers(1, MOST_SWAPS + 1)), rng) for _ in range(OFFSPRING)]
            names = [f"{generation}-{index}" for index in range(OFFSPRING)]
            heats = [self._utility(number, n, o_U, few) for n, o_U in zip(names, offspring, strict=True)]
            for index in np.argsort(heats, kind="stable")[::-1][:FINALISTS]:
                utility = self._utility(number, f"{names[index]}-final", offspring[index], len(windows_NT))
                if utility > best:
                    best_U, best = offspring[index], utility
                    found |= {"search_end": best, "search_improved": found["search_improved"] + 1}
            self._repairs.keep_only(best_U)
        return best_U, {name: None if np.isinf(number) else number for name, number in found.items()}

    def _utility(self, number: int, name: str, keep_U: NDArray[np.bool_], num_windows: int) -> float:
        """Of the round as it would be with this keep vector, on so many windows; -inf where it is not finite."""
        work, draw, key = self._work, self._work.draw_of(number), f"round-{number}/search-{name}"
        data = CalibrationData(work.calibration.search[draw].windows_NT[:num_windows])
        if key in self._journal:
            self._observe(TokensDone(data.num_tokens, replayed=True))
        probe = ModelProbe(self._passes, work.tokenizer, data, self._dense[draw] if self._dense else None)

        def measure() -> dict[str, Any]:
            with self._repairs.applied(keep_U), torch.no_grad():
                value = float(work.methods.metric.measure(probe))
            return {"value": value if np.isfinite(value) else None}

        value = self._journal.once(key, measure)["value"]
        return -np.inf if value is None else work.methods.metric.utility(value)
