"""The laws of every kind of plugin, as test classes to inherit: what the engine relies on, and nothing else.

Say what is under test in a class whose name begins with ``Test``, and pytest runs all its laws::

    class TestMyPrior(PriorContract):
        def make(self) -> Prior:
            return MyPrior(strength=2.0)

A slicer gives its family and a tiny random model instead::

    class TestMyFamily(FamilyContract):
        family = MY_FAMILY

        def make_model(self) -> Any:
            return MyForCausalLM(MyConfig(num_hidden_layers=2, hidden_size=32, ...)).eval()
"""

from bonsai_core.testing.compensator import CompensatorContract
from bonsai_core.testing.component import ComponentContract
from bonsai_core.testing.estimator import EstimatorContract
from bonsai_core.testing.family import FamilyContract
from bonsai_core.testing.metric import ChoiceMetricContract, TokenMetricContract
from bonsai_core.testing.prior import PriorContract
from bonsai_core.testing.sampler import SamplerContract

__all__ = [
    "ChoiceMetricContract",
    "CompensatorContract",
    "ComponentContract",
    "EstimatorContract",
    "FamilyContract",
    "PriorContract",
    "SamplerContract",
    "TokenMetricContract",
]
