"""Algorithm 1 of Bonsai on one page: Dery et al. 2024, "Everybody Prune Now", arXiv:2402.05406.

Each round removes p_iter of the decoder's parameters until sparsity p is reached, or of what else the run's budget
counts until that is met (`plan_rounds`):

    rho   <- prior(M)                      a cheap score per unit                         `score`
    m_i   ~  S(rho), i = 1..n              sub-models without some units of low prior     `measure`
    U_i   <- U(M | m_i)                    each measured with forward passes              `measure`
    beta  <- argmin sum (U_i - beta' m_i)^2 + penalty      importances, by regression     `estimate`
    M     <- M without the lowest beta     until the round's target is reached            `select`

What we add: where whole layers compete with single units, the answer without them stands unless the one with them
measures better, a search around it (both in `refine`), and a repair of what is kept (`settle`).

Above, M is the model and U a utility. In array suffixes: U units, M sub-models, W wholes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.estimate import Estimate, estimate, estimate_by_prior
from bonsai_core.engine.job import Job
from bonsai_core.engine.measure import measure
from bonsai_core.engine.reached import timed
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.rounds import Round, plan_rounds, sample_request
from bonsai_core.engine.score import score
from bonsai_core.engine.search import refine, utilities_of
from bonsai_core.engine.settle import settle
from bonsai_core.engine.workers import Workers
from bonsai_core.events import Stage
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.rundir.measurement_cache import Arrays
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.select import select_both_ways
from bonsai_core.selection.whole_drops import WholeDrops


def prune(job: Job, ledger: Ledger) -> NDArray[np.bool_]:
    """Remove units round by round until the job's budget is met.

    Returns:
        The units kept, bool [U]; the model has no others where it is sliced in place.
    """
    keep_U = job.table.keep_all()
    rounds = plan_rounds(job, ledger)
    with Workers.of(job, ledger) as workers:
        statistics = RoundStatistics(job, rounds[0].prior_NT, keep_U, workers)
        for round, following in zip(rounds, (*rounds[1:], rounds[-1]), strict=True):
            alive_U = keep_U
            with Repairs.of_submodels(job, statistics, workers, ledger) as repairs:
                decide = partial(next_keep, job, round, repairs, workers, ledger)
                # A resumed run reads what a finished round decided from its directory.
                selection, keep_U = ledger.once_with_array(
                    round.selection(job), decide, name="keep_U", kind=np.bool_, length=len(alive_U)
                )
            statistics = RoundStatistics(job, following.prior_NT, keep_U, workers)
            settle(job, round, selection, alive_U, statistics, workers, ledger)
    return keep_U


def next_keep(job: Job, round: Round, repairs: Repairs, workers: Workers, ledger: Ledger) -> tuple[Payload, Arrays]:
    """What a round decides: numbers for the journal, and arrays.

    These are `importance_U` and `keep_U`, and `predicted_M` and `utility_M` where there are predictions.
    """
    methods, alive_U = job.methods, repairs.statistics.alive_U
    workers.recruit()
    prior_U = score(job, round, repairs.statistics, ledger)
    # If --units has sublayer or layer, some sub-models lose these; the others are the sampler's.
    request, drops = WholeDrops.of(sample_request(job, round, alive_U, prior_U), job.rules, (round.seed, round.number))
    if not methods.needs_submodels:
        fitted = estimate_by_prior(methods.estimator, request)
    elif request.drop_fraction == 0:  # earlier rounds removed large units and have reached this target
        ledger.skip(job.plan.submodel_tokens)
        fitted = Estimate.nothing(request)
    else:
        measured = measure(job, round, request, drops, repairs, workers, ledger)
        fitted = estimate(methods.estimator, request, measured, ledger.warn)
    ledger.begin(Stage.SELECT, "selection", round.number)
    whole_W = drops.importance(fitted.importance_U)
    table = job.budget.table
    problem = SelectionProblem(table, alive_U, fitted.unit_importance_U, prior_U, round.target, job.rules, whole_W)
    round = timed(job, round, problem, ledger)
    problem = replace(problem, sparsity=round.target)
    answers, details = select_both_ways(problem), dict(fitted.details)
    keep_U = answers[-1]
    if round.search is not None and request.drop_fraction > 0:
        utilities = partial(utilities_of, job, round, repairs, workers, ledger)
        keep_U, numbers = refine(job, round, request, drops, fitted.unit_importance_U, answers, utilities, ledger)
        details |= numbers
    summary = {
        "kendall_tau": fitted.kendall_tau,
        "details": details,
        "submodels": fitted.num_submodels,
        "dropped_submodels": fitted.num_dropped,
        "repaired_submodels": fitted.repaired,
        "sparsity": job.table.sparsity(keep_U),
        "units_removed": int((alive_U & ~keep_U).sum()),
    }
    return summary, {"importance_U": fitted.unit_importance_U, "keep_U": keep_U, **fitted.predictions}
