"""Built-in compensators."""

from bonsai_core import Compensator, hookimpl
from bonsai_plugins.compensators.bias import Bias
from bonsai_plugins.compensators.least_squares import LeastSquares
from bonsai_plugins.compensators.none import NoRepair


@hookimpl
def bonsai_compensators() -> list[type[Compensator]]:
    return [NoRepair, Bias, LeastSquares]
