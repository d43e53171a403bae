"""Checkpoints: pruned models on disk, and how transformers gets them back.

Uniform widths are stock checkpoints. Free widths keep each layer's sizes in config.json, and are loaded by
classes made from the stock ones: those that `register` makes known, or, without Bonsai, those of the modeling
file in the checkpoint.
"""

from bonsai_core.checkpoint.modeling_bonsai import EmptyAttention, EmptyMLP, ragged
from bonsai_core.checkpoint.register import register
from bonsai_core.checkpoint.save import checkpoint_directory, empty_model, save_checkpoint, weight_bytes
from bonsai_core.checkpoint.stream import save_streamed
from bonsai_core.checkpoint.uniform import check_uniform

__all__ = [
    "EmptyAttention",
    "EmptyMLP",
    "check_uniform",
    "checkpoint_directory",
    "empty_model",
    "ragged",
    "register",
    "save_checkpoint",
    "save_streamed",
    "weight_bytes",
]
