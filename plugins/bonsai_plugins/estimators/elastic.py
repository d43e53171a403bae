"""Elastic net regression."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.cross_validated import can_be_cross_validated, grouped_folds, standardised
from bonsai_plugins.estimators.patterns import Patterns


class ElasticNet(Estimator):
    """Least squares with an absolute and a squared penalty: zeros as in lasso; similar units share as in ridge.

    Zou and Hastie 2005, J. R. Stat. Soc. B 67(2), eq. 3; coordinate descent, strength and mixture chosen by
    cross-validation. With tens of thousands of units measured one by one a fit takes a minute.
    All features are built as numbers, which takes sub-models x units x 8 bytes, and scikit-learn copies them.
    """

    name: ClassVar[str] = "elastic"
    l1_ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.5, 0.9),
        min_length=1,
        description="Shares of the absolute penalty to choose from: near 0 is ridge, 1 is lasso.",
    )
    strengths: int = Field(10, ge=1, description="Strengths to choose from, on a logarithmic path.")
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import ElasticNetCV

        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        patterns = Patterns.of(measurements)
        model = ElasticNetCV(
            l1_ratio=list(self.l1_ratios),
            alphas=self.strengths,
            cv=grouped_folds(measurements.group_M, self.folds),
            max_iter=10_000,
            random_state=0,  # scikit-learn 1.9 draws from the global generator even where it needs no randomness
        )
        utility_M, spread = standardised(measurements)
        model.fit(patterns.features(), utility_M)
        details = {"alpha": float(model.alpha_), "l1_ratio": float(model.l1_ratio_)}
        return Fit(patterns.per_unit(model.coef_ * spread), details)
