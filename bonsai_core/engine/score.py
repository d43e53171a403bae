"""The prior of a round: a cheap score per unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.rounds import Round
from bonsai_core.events import Stage
from bonsai_core.model.forward.statistics import score_units
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.rundir.measurement_cache import Arrays, code_of


def score(
    job: Job, round: Round, alive_U: NDArray[np.bool_], statistics: RoundStatistics, ledger: Ledger
) -> NDArray[np.float64]:
    """Scores of the units alive, float64 [U]; larger means keep. Dead units hold 0."""
    prior, num_tokens = job.methods.prior, round.prior_NT.size
    # Second moments that repairs need too count with the repair: a resumed run collects them again for it.
    tokens = num_tokens if job.methods.prior_reads_text and not job.methods.shares_moments else 0

    def compute() -> Arrays:
        totals = statistics.totals(prior)
        return {"prior_U": score_units(job.subject, prior, totals, num_tokens, alive_U, round.prior_seed)}

    cache_key = None
    if ledger.has_cache and alive_U.all():
        cache_key = {
            **job.cache_key,
            "prior": job.config.prior.model_dump(),
            "code": code_of(prior),
            "windows": round.prior_NT,
            "seed": round.prior_seed,
        }

    def scored() -> tuple[Payload, Arrays]:
        return {}, ledger.cached(cache_key, tokens, compute)

    ledger.begin(Stage.PRIOR, f"prior {prior.name}", round.number)
    step = round.step("prior", tokens)
    return ledger.once_with_array(step, scored, name="prior_U", kind=np.float64, length=len(alive_U))[1]
