"""Built-in samplers."""

from bonsai_core import Sampler, hookimpl
from bonsai_plugins.samplers.adaptive import Adaptive
from bonsai_plugins.samplers.antithetic import Antithetic
from bonsai_plugins.samplers.bernoulli import Bernoulli
from bonsai_plugins.samplers.pooled import Pooled
from bonsai_plugins.samplers.stratified import Stratified


@hookimpl
def bonsai_samplers() -> list[type[Sampler]]:
    return [Antithetic, Pooled, Stratified, Adaptive, Bernoulli]
