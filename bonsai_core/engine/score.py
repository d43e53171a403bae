"""The prior of a round: a cheap score per unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.rounds import Round
from bonsai_core.events import Stage
from bonsai_core.model.forward.statistics import site_scores
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.rundir.measurement_cache import Arrays, code_of


def score(job: Job, round: Round, statistics: RoundStatistics, ledger: Ledger) -> NDArray[np.float64]:
    """Scores of the units alive, float64 [U]; larger means keep. Dead units hold 0."""
    prior, alive_U = job.methods.prior, statistics.alive_U
    step = round.step("prior", round.prior_NT.size if job.methods.prior_reads_text else 0)
    cache_key = None
    if ledger.has_cache and alive_U.all():
        cache_key = {
            **job.cache_key,
            "prior": job.config.prior.model_dump(),
            "code": code_of(prior),
            "windows": round.prior_NT,
            "seed": round.prior_seed,
        }

    def compute() -> Arrays:
        if statistics.has(prior):  # from the repair of the round before
            ledger.skip(step.tokens)
        subject, score_U, statistics_of = job.subject, np.zeros(len(alive_U)), statistics.sweep(prior)

        def score_layer(number: int) -> None:
            totals = statistics_of(number)
            for site in subject.sites_present():
                if site.layer == number and alive_U[site.units].any():
                    ids = np.flatnonzero(alive_U[site.units]) + site.first
                    statistic = totals.get(site.name)
                    score_U[ids] = site_scores(subject, prior, statistic, site, alive_U, round.prior_seed)

        job.lockstep.sweep(score_layer)
        return {"prior_U": score_U}

    def scored() -> tuple[Payload, Arrays]:
        return {}, ledger.cached(cache_key, step.tokens, compute)

    ledger.begin(Stage.PRIOR, f"prior {prior.name}", round.number)
    return ledger.once_with_array(step, scored, name="prior_U", kind=np.float64, length=len(alive_U))[1]
