"""Built-in estimators."""

from bonsai_core import Estimator, hookimpl
from bonsai_plugins.estimators.average import Average
from bonsai_plugins.estimators.bayes import Bayes
from bonsai_plugins.estimators.elastic import ElasticNet
from bonsai_plugins.estimators.hierarchical import Hierarchical
from bonsai_plugins.estimators.lasso import Lasso
from bonsai_plugins.estimators.none import PriorOnly
from bonsai_plugins.estimators.ridge import Ridge
from bonsai_plugins.estimators.shrunk import Shrunk


@hookimpl
def bonsai_estimators() -> list[type[Estimator]]:
    return [Ridge, Lasso, ElasticNet, Bayes, Shrunk, Hierarchical, Average, PriorOnly]
