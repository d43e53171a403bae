"""Built-in priors."""

from bonsai_core import Prior, hookimpl
from bonsai_plugins.priors.activation import Activation
from bonsai_plugins.priors.random import Random
from bonsai_plugins.priors.wanda import Wanda


@hookimpl
def bonsai_priors() -> list[type[Prior]]:
    return [Wanda, Activation, Random]
