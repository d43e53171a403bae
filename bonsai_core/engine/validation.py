"""Does an estimator predict sub-models it has not seen? Out-of-fold predictions, and their Kendall tau."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Estimator, Measurements


def predict_out_of_fold(estimator: Estimator, measurements: Measurements, folds: int = 5) -> NDArray[np.float64] | None:
    """The utility of every sub-model as predicted by a fit that did not see it.

    Sub-models drawn together stay in one fold. A sub-model's prediction is the summed importance of what it keeps,
    relative to its fold's training mean.

    Returns:
        float64 [M], in the unit of the utilities; None for fewer than three groups.
    """
    from sklearn.model_selection import GroupKFold

    num_groups = len(np.unique(measurements.group_M))
    if num_groups < 3:
        return None
    predicted_M = np.zeros(len(measurements.utility_M))
    splits = GroupKFold(min(folds, num_groups)).split(predicted_M, groups=measurements.group_M)
    for train, test in splits:
        training = measurements.rows(train)
        perturbed_U = training.perturbed_U
        training, tested = training.columns(perturbed_U), measurements.rows(test).columns(perturbed_U)
        importance_U = estimator.fit(training).importance_U
        deviation_M = tested.kept(importance_U, usual_U=training.keep_MU.mean(axis=0))
        predicted_M[test] = training.utility_M.mean() + deviation_M
    return predicted_M


def rank_correlation(predicted_M: NDArray[np.float64], utility_M: NDArray[np.float64]) -> float | None:
    """Kendall's tau in -1..1; None where it is undefined, as for constant utilities."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(predicted_M, utility_M).statistic)
    return None if np.isnan(tau) else tau
