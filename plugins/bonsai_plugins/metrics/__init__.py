"""Built-in metrics."""

from bonsai_core import Metric, hookimpl
from bonsai_plugins.metrics.choice import Choice
from bonsai_plugins.metrics.kl import KL
from bonsai_plugins.metrics.nll import NLL
from bonsai_plugins.metrics.perplexity import Perplexity


@hookimpl
def bonsai_metrics() -> list[type[Metric]]:
    return [KL, Perplexity, NLL, Choice]
