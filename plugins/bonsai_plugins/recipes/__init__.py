"""Built-in recipes."""

from bonsai_core import Recipe, hookimpl
from bonsai_plugins.recipes.baselines import FLAP, MAGNITUDE, RANDOM, SHORTGPT, WANDA_SP
from bonsai_plugins.recipes.ours import DEFAULT, DEPTH, FAST, MOE, QUALITY
from bonsai_plugins.recipes.paper import PAPER


@hookimpl
def bonsai_recipes() -> list[Recipe]:
    return [FAST, DEFAULT, QUALITY, DEPTH, MOE, PAPER, WANDA_SP, FLAP, MAGNITUDE, RANDOM, SHORTGPT]
