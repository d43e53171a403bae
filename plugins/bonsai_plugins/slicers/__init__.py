"""Built-in model families."""

from bonsai_core import Family, hookimpl
from bonsai_plugins.slicers.llama import LLAMA


@hookimpl
def bonsai_slicers() -> list[Family]:
    return [LLAMA]
