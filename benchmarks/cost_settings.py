"""Settings of a run among the options of a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def settings_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, str]:
    """The options that a benchmark has not itself, as settings of a run; ends the process if they are none."""
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        parser.error(f"settings of the run are --name value: {' '.join(words)}")
    return {name[2:].replace("-", "_"): value for name, value in zip(names, values, strict=True)}
