"""Checkpoints: pruned models on disk, and how transformers loads them.

Uniform widths are stock checkpoints. Free widths have each layer's sizes in config.json, and are loaded by classes made
from the stock ones: those that `register` registers, or, without Bonsai, those of the modeling file in the checkpoint.
What pruning does not change is kept as the parent has it, for older readers.
"""

from bonsai_core.checkpoint.modeling_bonsai import EmptyAttention, EmptyMLP
from bonsai_core.checkpoint.parent import ParentFiles
from bonsai_core.checkpoint.register import register
from bonsai_core.checkpoint.save import checkpoint_directory, empty_model, save_checkpoint
from bonsai_core.checkpoint.stream import save_streamed
from bonsai_core.checkpoint.uniform import check_uniform
from bonsai_core.checkpoint.weights import weight_bytes

__all__ = [
    "EmptyAttention",
    "EmptyMLP",
    "ParentFiles",
    "check_uniform",
    "checkpoint_directory",
    "empty_model",
    "register",
    "save_checkpoint",
    "save_streamed",
    "weight_bytes",
]
