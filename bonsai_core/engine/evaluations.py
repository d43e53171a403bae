"""What a run measures besides sub-models: perplexities, and the dense model's side of the metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import DenseTokens, token_kl
from bonsai_core.engine.setup import Workspace
from bonsai_core.events import Event, Stage, StageStarted, TokensDone
from bonsai_core.model.forward.passes import DenseSide, Passes
from bonsai_core.rundir import Journal
from bonsai_core.rundir.measurement_cache import Arrays, SharedMeasurements, once


@dataclass(frozen=True)
class DenseSides:
    """The dense model's side of what sub-models are compared on.

    Attributes:
        data: of what they are measured on, per draw; none where they are not compared.
        search: of what the search measures on, per draw.
        held_out: of the held-out windows; None where there are none.
    """

    data: tuple[DenseSide, ...]
    search: tuple[DenseSide, ...]
    held_out: DenseSide | None


class Evaluations:
    """Perplexities go to the journal and come from it; what is measured of the dense model may be shared.

    Args:
        work: what the run works with.
        passes: forward passes over its subject.
        journal: where perplexities go.
        observe: told every event.
        shared: where measurements of the dense model are kept for other runs.
    """

    def __init__(
        self,
        work: Workspace,
        passes: Passes,
        journal: Journal,
        observe: Callable[[Event], None],
        shared: SharedMeasurements | None,
    ) -> None:
        self._work = work
        self._passes = passes
        self._journal = journal
        self._observe = observe
        self._shared = shared

    def dense(self) -> float | None:
        """Perplexity of the dense model, which the subject still is; None where it is not finite."""
        self._observe(StageStarted(Stage.EVALUATE, 0, "perplexity of the dense model"))

        def compute(windows_NT: NDArray[np.int64]) -> float:
            arrays = self._of_dense(
                "perplexity", windows_NT, lambda: {"perplexity": np.array([self._passes.perplexity(windows_NT)])}
            )
            return float(arrays["perplexity"][0])

        return self._perplexity("evaluate/dense", compute)

    def pruned(self) -> float | None:
        """Perplexity of the pruned model, which the subject is by now."""
        self._observe(StageStarted(Stage.EVALUATE, 0, "perplexity of the pruned model"))
        return self._perplexity("evaluate/pruned", self._passes.perplexity)

    def after_round(self, number: int, alive_U: NDArray[np.bool_]) -> float | None:
        """Perplexity after a round, where it was asked for; that after the last one is the pruned model's anyway."""
        if not self._work.config.eval_rounds or number == len(self._work.plan.targets):
            return None
        self._observe(StageStarted(Stage.EVALUATE, number, "perplexity after the round"))
        key = f"round-{number}/evaluate"
        if self._work.slices_between_rounds and key not in self._journal:
            self._work.subject.slice(alive_U)
        with self._work.subject.masked(alive_U):
            return self._perplexity(key, self._passes.perplexity)

    def dense_sides(self) -> DenseSides:
        """The dense model's side of everything that sub-models are compared on, before anything is sliced."""
        drawn, compared = self._work.calibration, self._work.methods.compared
        if not compared and not len(drawn.held_out_NT):
            return DenseSides((), (), None)
        self._observe(StageStarted(Stage.DENSE, 0, "the dense model on the calibration text"))
        start = time.perf_counter()
        sides = DenseSides(
            tuple(self._dense_side(data.windows_NT) for data in drawn.data) if compared else (),
            tuple(self._dense_side(data.windows_NT) for data in drawn.search) if compared else (),
            self._dense_side(drawn.held_out_NT) if len(drawn.held_out_NT) else None,
        )
        if "dense" not in self._journal:  # only the time it took; what is found is needed in memory anyway
            self._journal.append("dense", {}, time.perf_counter() - start)
        return sides

    def divergence(self, number: int, alive_U: NDArray[np.bool_], dense: DenseSides) -> float | None:
        """KL to the dense model after a round, on text that nothing is chosen by; None where there is none.

        Beside it the journal gets that on the text which sub-models are measured on: what lies between them is fitted
        to the sample.
        """
        work, key = self._work, f"round-{number}/divergence"
        if dense.held_out is None and key not in self._journal:
            return None
        measured = work.data_of(number)
        if key in self._journal:
            self._observe(TokensDone(work.plan.divergence_tokens, replayed=True))

        def measure() -> dict[str, Any]:
            if work.slices_between_rounds:
                work.subject.slice(alive_U)
            with work.subject.masked(alive_U):
                found = {"held_out": self._kl(work.calibration.held_out_NT, dense.held_out)}
                if dense.data:
                    found["measured"] = self._kl(measured.windows_NT, dense.data[work.draw_of(number)])
            return found

        found: float | None = self._journal.once(key, measure)["held_out"]
        return found

    def _kl(self, windows_NT: NDArray[np.int64], side: DenseSide | None) -> float | None:
        assert side is not None

        def per_token(logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
            assert dense is not None
            return token_kl(logits, dense)

        mean = self._passes.token_mean(per_token, windows_NT, side)
        return mean if math.isfinite(mean) else None

    def _dense_side(self, windows_NT: NDArray[np.int64]) -> DenseSide:
        def compute() -> Arrays:
            side = self._passes.dense_reference(windows_NT)
            return {name: tensor.cpu().numpy() for name, tensor in side._asdict().items()}

        arrays, device = self._of_dense("dense side", windows_NT, compute), self._work.subject.device
        return DenseSide(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})

    def _of_dense(self, what: str, windows_NT: NDArray[np.int64], compute: Callable[[], Arrays]) -> Arrays:
        """What is computed of the dense model, or was by another run."""
        origin = {**self._work.dense_origin, what: windows_NT} if self._shared is not None else None
        found = once(self._shared, origin, compute)
        if found.found:
            self._observe(TokensDone(windows_NT.size, replayed=True))
        return found.arrays

    def _perplexity(self, key: str, compute: Callable[[NDArray[np.int64]], float]) -> float | None:
        """Perplexity of the model as it stands, from the journal if it is there; None where it is not finite."""
        windows_NT = self._work.evaluation_NT
        if key in self._journal:
            self._observe(TokensDone(windows_NT.size, replayed=True))

        def measure() -> dict[str, Any]:
            perplexity = compute(windows_NT)
            return {
                "perplexity": perplexity if math.isfinite(perplexity) else None,
                "windows": len(windows_NT),
                "sequence_length": windows_NT.shape[1],
            }

        found: float | None = self._journal.once(key, measure)["perplexity"]
        return found
