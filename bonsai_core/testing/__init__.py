"""The laws of every kind of plugin, as test classes to inherit: what the engine relies on, and nothing else.

Return what is under test from a class whose name begins with ``Test``, and pytest runs all its laws:

```python
class TestMyPrior(PriorContract):
    def make(self) -> Prior:
        return MyPrior(strength=2.0)
```

A test of a slicer has its family and a tiny random model instead:

```python
class TestMyFamily(FamilyContract):
    family = MY_FAMILY

    def make_model(self) -> Any:
        return MyForCausalLM(MyConfig(num_hidden_layers=2, hidden_size=32, ...)).eval()
```
"""

from bonsai_core.testing.compensator import CompensatorContract as CompensatorContract
from bonsai_core.testing.component import ComponentContract as ComponentContract
from bonsai_core.testing.estimator import EstimatorContract as EstimatorContract
from bonsai_core.testing.exporter import ExporterContract as ExporterContract
from bonsai_core.testing.family import FamilyContract as FamilyContract
from bonsai_core.testing.metric import ChoiceMetricContract as ChoiceMetricContract
from bonsai_core.testing.metric import TokenMetricContract as TokenMetricContract
from bonsai_core.testing.prior import PriorContract as PriorContract
from bonsai_core.testing.recipe import RecipeContract as RecipeContract
from bonsai_core.testing.sampler import SamplerContract as SamplerContract
from bonsai_core.testing.tracker import TrackerContract as TrackerContract
