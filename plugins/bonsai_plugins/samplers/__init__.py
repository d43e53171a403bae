"""Built-in samplers."""

from bonsai_core import Sampler, hookimpl
from bonsai_plugins.samplers.antithetic import Antithetic


@hookimpl
def bonsai_samplers() -> list[type[Sampler]]:
    return [Antithetic]
