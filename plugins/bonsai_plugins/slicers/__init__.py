"""Built-in model families."""

from bonsai_core import Family, hookimpl
from bonsai_plugins.slicers.falcon import FALCON, FALCON_MQA, FALCON_RW
from bonsai_plugins.slicers.gpt_neox import GPT_NEOX
from bonsai_plugins.slicers.llama import GEMMA, GRANITE, LLAMA, OLMO2, QWEN, SMOLLM3
from bonsai_plugins.slicers.moe import MIXTRAL, OLMOE, QWEN_MOE
from bonsai_plugins.slicers.opt import OPT
from bonsai_plugins.slicers.phi import PHI, PHI3
from bonsai_plugins.slicers.stablelm import STABLELM


@hookimpl
def bonsai_slicers() -> list[Family]:
    return [
        *(LLAMA, QWEN, GEMMA, PHI, PHI3, GRANITE, STABLELM, SMOLLM3, OLMO2, GPT_NEOX, OPT),
        *(FALCON, FALCON_MQA, FALCON_RW),
        *(MIXTRAL, QWEN_MOE, OLMOE),
    ]
