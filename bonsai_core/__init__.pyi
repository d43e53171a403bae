# The public names, in one list: type checkers read it, and `__init__.py` makes `__all__` from it.

from bonsai_core.adaptation.config import AdaptConfig as AdaptConfig
from bonsai_core.adaptation.lifecycle import AdaptResult as AdaptResult
from bonsai_core.adaptation.lifecycle import adapt as adapt
from bonsai_core.config import RunConfig as RunConfig
from bonsai_core.contracts import Answers as Answers
from bonsai_core.contracts import AttentionSite as AttentionSite
from bonsai_core.contracts import ChoiceMetric as ChoiceMetric
from bonsai_core.contracts import Compensator as Compensator
from bonsai_core.contracts import Component as Component
from bonsai_core.contracts import DenseTokens as DenseTokens
from bonsai_core.contracts import Draw as Draw
from bonsai_core.contracts import Estimator as Estimator
from bonsai_core.contracts import Evidence as Evidence
from bonsai_core.contracts import ExpertsSite as ExpertsSite
from bonsai_core.contracts import Family as Family
from bonsai_core.contracts import Fit as Fit
from bonsai_core.contracts import InputCompensator as InputCompensator
from bonsai_core.contracts import InputPrior as InputPrior
from bonsai_core.contracts import LayerPrior as LayerPrior
from bonsai_core.contracts import Measurements as Measurements
from bonsai_core.contracts import Metric as Metric
from bonsai_core.contracts import MlpSite as MlpSite
from bonsai_core.contracts import MomentCompensator as MomentCompensator
from bonsai_core.contracts import MomentPrior as MomentPrior
from bonsai_core.contracts import Prior as Prior
from bonsai_core.contracts import Probe as Probe
from bonsai_core.contracts import Recipe as Recipe
from bonsai_core.contracts import Removal as Removal
from bonsai_core.contracts import Repair as Repair
from bonsai_core.contracts import Sampler as Sampler
from bonsai_core.contracts import SampleRequest as SampleRequest
from bonsai_core.contracts import SiteView as SiteView
from bonsai_core.contracts import Statistic as Statistic
from bonsai_core.contracts import TokenMetric as TokenMetric
from bonsai_core.contracts import WeightCompensator as WeightCompensator
from bonsai_core.contracts import WeightPrior as WeightPrior
from bonsai_core.contracts import perplexity_of as perplexity_of
from bonsai_core.contracts import token_kl as token_kl
from bonsai_core.contracts import token_nll as token_nll
from bonsai_core.engine import DryRun as DryRun
from bonsai_core.engine import RunResult as RunResult
from bonsai_core.engine import dry_run as dry_run
from bonsai_core.engine import resume as resume
from bonsai_core.engine import run as run
from bonsai_core.errors import BonsaiError as BonsaiError
from bonsai_core.evaluation.compare import evaluate as evaluate
from bonsai_core.evaluation.config import EvalConfig as EvalConfig
from bonsai_core.hookspecs import hookimpl as hookimpl
from bonsai_core.model.loading.load import load_model as load_model
from bonsai_core.model.loading.lookup import register_checkpoints as register_checkpoints
from bonsai_core.registry.registry import Registry as Registry
from bonsai_core.units import Site as Site
from bonsai_core.units import UnitTable as UnitTable

__all__: list[str]
__version__: str
