"""One round of the method: prior -> sample -> measure -> estimate -> select -> repair."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Repair, SampleRequest
from bonsai_core.engine.evaluations import DenseSides
from bonsai_core.engine.fitting import fit_prior_alone, fit_units
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.search import Search
from bonsai_core.engine.setup import Workspace
from bonsai_core.engine.submodels import Measured, SubModels
from bonsai_core.engine.validation import out_of_fold_tau
from bonsai_core.events import Event, Stage, StageStarted, TokensDone, Warned
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.probe import ModelProbe
from bonsai_core.model.forward.statistics import score_units
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.rundir import Journal, RunDirectory
from bonsai_core.rundir.measurement_cache import Arrays, SharedMeasurements, code_of, once
from bonsai_core.selection.select import select
from bonsai_core.selection.whole_drops import WholeDrops

PRIOR_STREAM = 0


class Rounds:
    """Runs rounds, each result journaled before it counts; what the journal already has is not computed again.

    Args:
        work: what the run works with.
        passes: forward passes over its subject.
        directory, journal: where results go.
        dense: the dense model's side of what sub-models are compared on.
        observe: told every event.
        shared: where what is measured of the dense model is kept for other runs.
    """

    def __init__(
        self,
        work: Workspace,
        passes: Passes,
        directory: RunDirectory,
        journal: Journal,
        dense: DenseSides,
        observe: Callable[[Event], None],
        shared: SharedMeasurements | None,
    ) -> None:
        self._work = work
        self._passes = passes
        self._directory = directory
        self._journal = journal
        self._dense = dense
        self._observe = observe
        self._shared = shared
        self._scratch = TensorFiles(directory.scratch_path, directory.writing)
        self._begun = 0

    def run(self, number: int, alive_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Round `number` (from 1), starting from the units alive; returns the units kept."""
        self._begin(number, alive_U)
        prior_U = self._prior(number, alive_U)
        seed = (self._work.config.seed, number)
        request, drops = WholeDrops.of(self._request(number, alive_U, prior_U), self._work.rules, seed)
        summary: dict[str, Any] = {
            "kendall_tau": None,
            "details": {},
            "submodels": 0,
            "dropped_submodels": 0,
            "repaired_submodels": False,
        }
        if self._work.methods.measured and request.drop_fraction == 0:  # large units went beyond this round's target
            start = time.perf_counter()
            self._observe(TokensDone(self._work.plan.submodel_tokens, replayed=True))
            importance_U, individually_dropped_U = np.full(len(request.table), np.nan), alive_U
        elif self._work.methods.measured:
            measured = self._measure(number, request, drops)
            start = time.perf_counter()
            importance_U, found = self._regress(request, measured)
            individually_dropped_U = measured.individually_dropped_U
            summary |= found
        else:
            start = time.perf_counter()
            importance_U = fit_prior_alone(self._work.methods.estimator, request)
            individually_dropped_U = alive_U
        return self._select(number, request, drops, importance_U, individually_dropped_U, summary, start)

    def repair(self, number: int, alive_U: NDArray[np.bool_], keep_U: NDArray[np.bool_]) -> None:
        """Make up for what round `number` removes, in the weights; from the run directory where that is done."""
        work, subject, key = self._work, self._work.subject, f"round-{number}/repair"
        files = self._repair_files(number)
        if not self._is_repaired(number):
            self._observe(StageStarted(Stage.REPAIR, number, f"repair by {work.methods.compensator.name}"))
            start = time.perf_counter()
            self._begin(number, alive_U)
            self._write_repairs(files, keep_U)
            if key not in self._journal:
                self._journal.append(key, {"sha256": files.sha256()}, time.perf_counter() - start)
            elif files.sha256() != self._journal[key]["sha256"]:
                self._observe(Warned(f"The repair of round {number} was computed again and rounds differently."))
        for site in subject.sites_present():
            if site.name in files:
                subject.repair(site, keep_U, Repair(**files.load(site.name, subject.home)))

    def repair_tokens(self, number: int) -> int:
        """Tokens that the repair of a finished round will put through the model again, because it is gone."""
        reads = self._work.methods.compensator_reads_text
        return self._work.prior_windows(number).size if reads and not self._is_repaired(number) else 0

    def _is_repaired(self, number: int) -> bool:
        """Whether the repair of a round lies in the run directory, whole."""
        event, files = self._journal.get(f"round-{number}/repair"), self._repair_files(number)
        return event is not None and files.folder.exists() and files.sha256() == event["sha256"]

    def _repair_files(self, number: int) -> TensorFiles:
        return TensorFiles(self._directory.tensor_path(number, "repair"), self._directory.writing)

    def clear(self) -> None:
        """Remove what only the round at work needs."""
        self._scratch.remove()

    def _begin(self, number: int, alive_U: NDArray[np.bool_]) -> None:
        """Bring the model to where round `number` starts, unless it is there already."""
        if self._begun == number:
            return
        if self._work.slices_between_rounds:
            self._work.subject.slice(alive_U)
        self.clear()
        windows_NT, moments = self._work.prior_windows(number), self._scratch.inside("moments")
        self._statistics = RoundStatistics(self._work, self._passes, windows_NT, alive_U, moments)
        self._repairs = Repairs(self._work, self._statistics, alive_U, self._scratch.inside("repairs"))
        self._search = Search(self._work, self._passes, self._repairs, self._journal, self._observe, self._dense.search)
        self._begun = number

    def _write_repairs(self, files: TensorFiles, keep_U: NDArray[np.bool_]) -> None:
        """What every site gets for its losses, computed and written as a whole or not at all."""
        partial = TensorFiles(files.folder.with_name(files.folder.name + ".partial"), self._directory.writing)
        partial.remove()
        with self._directory.writing(str(files.folder)):
            partial.folder.mkdir(parents=True)
            for site in self._repairs.losing(keep_U):
                partial.save_repair(site.name, self._repairs.of(site, keep_U), self._work.subject.dtype_of(site))
            files.remove()
            partial.folder.replace(files.folder)

    def _prior(self, number: int, alive_U: NDArray[np.bool_]) -> NDArray[np.float64]:
        work, prior, windows_NT = self._work, self._work.methods.prior, self._work.prior_windows(number)
        self._observe(StageStarted(Stage.PRIOR, number, f"prior {prior.name}"))
        key = f"round-{number}/prior"
        event = self._journal.get(key)
        if event is not None:
            if work.methods.prior_reads_text and not work.methods.shares_moments:  # else the repairs collect them again
                self._observe(TokensDone(windows_NT.size, replayed=True))
            return self._directory.load_array(
                number, "prior", "prior_U", event["sha256"], kind=np.float64, length=len(alive_U)
            )
        seed = int(np.random.SeedSequence([self._work.config.seed, number, PRIOR_STREAM]).generate_state(1)[0])

        def score() -> Arrays:
            totals = self._statistics.totals(prior)
            return {"prior_U": score_units(self._work.subject, prior, totals, windows_NT.size, alive_U, seed)}

        origin = None
        if self._shared is not None and alive_U.all():
            origin = {
                **self._work.dense_origin,
                "prior": self._work.config.prior.model_dump(),
                "code": code_of(prior),
                "windows": windows_NT,
                "seed": seed,
            }
        scored = once(self._shared, origin, score)
        if scored.found and work.methods.prior_reads_text and not work.methods.shares_moments:
            self._observe(TokensDone(windows_NT.size, replayed=True))
        prior_U = scored.arrays["prior_U"]
        sha256 = self._directory.save_arrays(number, "prior", prior_U=prior_U)
        self._journal.append(key, {"sha256": sha256}, scored.seconds)
        return prior_U

    def _request(self, number: int, alive_U: NDArray[np.bool_], prior_U: NDArray[np.float64]) -> SampleRequest:
        work = self._work
        table = work.subject.table
        missing = work.plan.targets[number - 1] * table.decoder_params - table.removed_params(alive_U)
        leaving = int(table.cost_U[alive_U & work.rules.may_leave(table)].sum())
        return SampleRequest(
            table,
            alive_U,
            prior_U,
            drop_fraction=min(0.5, max(0.0, missing / max(1, leaving))),
            num_submodels=work.config.submodels,
            minimum_S=np.array([work.rules.minimum(site) for site in table], dtype=np.int64),
            rank=work.config.rank,
        )

    def _measure(self, number: int, request: SampleRequest, drops: WholeDrops) -> Measured:
        work, data = self._work, self._work.data_of(number)
        dense = self._dense.data[work.draw_of(number)] if work.methods.compared else None
        probe = ModelProbe(self._passes, work.tokenizer, data, dense)
        return SubModels(work, self._repairs, self._journal, self._observe, self._shared).measure(
            number, request, drops, probe, data
        )

    def _regress(self, request: SampleRequest, measured: Measured) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Importances, NaN for units that no finite sub-model tells apart, and numbers for the report."""
        summary = {
            "submodels": len(measured.keep_MU),
            "dropped_submodels": measured.num_dropped,
            "repaired_submodels": measured.repaired,
        }
        estimator = self._work.methods.estimator
        fitted = fit_units(estimator, request, measured.keep_MU, measured.utility_M, measured.group_M)
        if fitted is None:
            self._observe(Warned("No unit was perturbed in this round, so the prior alone decides it."))
            return np.full(len(request.table), np.nan), summary
        tau = out_of_fold_tau(estimator, fitted.measurements)
        return fitted.importance_U, {**summary, "kendall_tau": tau, "details": dict(fitted.fit.details)}

    def _select(
        self,
        number: int,
        request: SampleRequest,
        drops: WholeDrops,
        importance_U: NDArray[np.float64],
        individually_dropped_U: NDArray[np.bool_],
        summary: dict[str, Any],
        start: float,
    ) -> NDArray[np.bool_]:
        """The units kept; `start` is when the fit began, so that its time counts."""
        self._observe(StageStarted(Stage.SELECT, number, "selection"))
        table, alive_U = request.table, request.alive_U
        target = self._work.plan.targets[number - 1]
        whole_W = drops.importance(importance_U)
        importance_U = np.where(individually_dropped_U, importance_U, np.nan)  # not from wholes
        keep_U = select(table, alive_U, importance_U, request.prior_U, target, self._work.rules, whole_W)
        elapsed_s = time.perf_counter() - start
        if self._work.calibration.search and request.drop_fraction > 0:
            left = replace(request, alive_U=drops.left_by(keep_U))
            keep_U, found = self._search.refine(number, left, importance_U, keep_U)
            summary["details"] |= found
        sha256 = self._directory.save_arrays(number, "selection", importance_U=importance_U, keep_U=keep_U)
        payload = {
            **summary,
            "sha256": sha256,
            "sparsity": table.sparsity(keep_U),
            "units_removed": int((alive_U & ~keep_U).sum()),
        }
        self._journal.append(f"round-{number}/selection", payload, elapsed_s)
        return keep_U
