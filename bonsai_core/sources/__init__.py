"""Where models and texts come from: the demo model, and text for calibration and evaluation."""

from __future__ import annotations

from bonsai_core.sources.builtin import BUILTIN
from bonsai_core.sources.choices import Question, describe_rows, draw_questions, read_rows
from bonsai_core.sources.demo import demo_model_dir
from bonsai_core.sources.load import load_evaluation_text, load_metric_text, load_text, with_absolute_paths
from bonsai_core.sources.mixture import holds_part_of
from bonsai_core.sources.stored import user_path
from bonsai_core.sources.text import Text
from bonsai_core.sources.tokens import tokenize
from bonsai_core.sources.windows import evaluation_windows, take_windows, training_windows, windows_of

__all__ = [
    "BUILTIN",
    "Question",
    "Text",
    "demo_model_dir",
    "describe_rows",
    "draw_questions",
    "evaluation_windows",
    "holds_part_of",
    "load_evaluation_text",
    "load_metric_text",
    "load_text",
    "read_rows",
    "take_windows",
    "tokenize",
    "training_windows",
    "user_path",
    "windows_of",
    "with_absolute_paths",
]
