"""Where models and texts come from: the demo model, and text for calibration and evaluation."""

from __future__ import annotations

from bonsai_core.sources.demo import demo_model_dir
from bonsai_core.sources.files import user_path
from bonsai_core.sources.load import NAMED, load_evaluation_text, load_text
from bonsai_core.sources.text import Text
from bonsai_core.sources.windows import take_windows, tokenize, windows_of

__all__ = [
    "NAMED",
    "Text",
    "demo_model_dir",
    "load_evaluation_text",
    "load_text",
    "take_windows",
    "tokenize",
    "user_path",
    "windows_of",
]
