"""Built-in recipes."""

from bonsai_core import Recipe, hookimpl
from bonsai_plugins.recipes.baselines import FLAP, MAGNITUDE, RANDOM, SHORTGPT, WANDA_SP
from bonsai_plugins.recipes.goals import GGUF, GPU24, LAPTOP, MOE, OVERNIGHT, VLLM
from bonsai_plugins.recipes.ours import DEFAULT, DEPTH, FAST, QUALITY
from bonsai_plugins.recipes.paper import LLAMA2, LLAMA3, MISTRAL, PAPER, PHI2


@hookimpl
def bonsai_recipes() -> list[Recipe]:
    ours = [FAST, DEFAULT, QUALITY, DEPTH]
    goals = [LAPTOP, GPU24, OVERNIGHT, VLLM, GGUF, MOE]
    paper = [PAPER, LLAMA2, LLAMA3, MISTRAL, PHI2]
    return [*ours, *goals, *paper, FLAP, WANDA_SP, SHORTGPT, MAGNITUDE, RANDOM]
