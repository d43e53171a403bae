"""Built-in estimators."""

from bonsai_core import Estimator, hookimpl
from bonsai_plugins.estimators.lasso import Lasso
from bonsai_plugins.estimators.none import PriorOnly
from bonsai_plugins.estimators.ridge import Ridge


@hookimpl
def bonsai_estimators() -> list[type[Estimator]]:
    return [Ridge, Lasso, PriorOnly]
