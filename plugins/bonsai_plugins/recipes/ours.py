"""Our own recipes, by effort and quality."""

from bonsai_core import Recipe

FAST = Recipe(
    name="fast",
    summary="A minute or two: two rounds to 50 %, few sub-models, little text.",
    settings={
        "round_fraction": 0.25,
        "min_rounds": 2,
        "submodels": 12,
        "samples": 1,
        "prior_samples": 12,
        "held_out_samples": 1,
    },
)
DEFAULT = Recipe(
    name="default",
    summary="What runs without --config: one price per site, least-squares repair.",
    settings={},
)
QUALITY = Recipe(
    name="quality",
    summary="The default with eight times the text on a CPU, and twice the sub-models: several times as long.",
    settings={"prior_samples": 512, "submodels": 160},
)
DEPTH = Recipe(
    name="depth",
    summary="Whole layers alone, which the layers before make up for: a stock checkpoint, the fastest at equal size.",
    settings={"units": ["layer"], "prior": "block-influence", "submodels": 40},
)
MOE = Recipe(
    name="moe",
    summary="The default on whole experts of a mixture, more from layers that miss them less; all else stays.",
    settings={"units": ["experts"]},
)
