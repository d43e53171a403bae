"""Built-in priors."""

from bonsai_core import Prior, hookimpl
from bonsai_plugins.priors.activation import Activation
from bonsai_plugins.priors.block_influence import BlockInfluence
from bonsai_plugins.priors.fluctuation import Fluctuation
from bonsai_plugins.priors.frequency import Frequency
from bonsai_plugins.priors.magnitude import Magnitude
from bonsai_plugins.priors.obs import OptimalBrainSurgeon
from bonsai_plugins.priors.random import Random
from bonsai_plugins.priors.reap import Reap
from bonsai_plugins.priors.uniform import Uniform
from bonsai_plugins.priors.wanda import Wanda


@hookimpl
def bonsai_priors() -> list[type[Prior]]:
    return [
        Wanda,
        OptimalBrainSurgeon,
        Activation,
        Fluctuation,
        Reap,
        Frequency,
        Magnitude,
        BlockInfluence,
        Random,
        Uniform,
    ]
