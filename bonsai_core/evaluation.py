"""Perplexity of any model on any text, outside a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.model.load import check_positions, declared_family, load_as_configured, load_tokenizer, start_token
from bonsai_core.model.passes import Passes
from bonsai_core.rundir import RunDirectory
from bonsai_core.sources import load_evaluation_text, windows_of


def evaluate_perplexity(model: str, dataset: str, config: RunConfig, warn: Callable[[str], None]) -> dict[str, Any]:
    """Perplexity, and what it was measured on.

    Args:
        model: a checkpoint, a run directory (its pruned model), a Hugging Face id or ``demo``.
        dataset: as for a run's evaluation text.
        config: evaluation windows, sequence length, batch size, device and type are taken from here.
        warn: told when the text is shorter than asked for, or the windows longer than the model's positions.

    Raises:
        BonsaiError: no such model or text.
    """
    run_directory = RunDirectory(Path(model))
    is_run = run_directory.config_path.is_file()
    if is_run and not run_directory.model_path.is_dir():
        raise BonsaiError(f"The run {model} has no pruned model yet; continue it with: bonsai resume {model}")
    source = str(run_directory.model_path) if is_run else model
    text = load_evaluation_text(dataset)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    family = declared_family(source, trust_remote_code=config.trust_remote_code)
    windows_NT = windows_of(
        text,
        tokenizer,
        num_windows=config.eval_samples,
        sequence_length=config.eval_sequence_length,
        seed=None,
        what="evaluation",
        warn=warn,
        start=start_token(family, tokenizer),
    )
    loaded = load_as_configured(source, config)
    check_positions(loaded.config, family, config.eval_sequence_length, warn)
    passes = Passes(loaded, config.batch_size, on_warning=warn)
    return {
        "perplexity": passes.perplexity(windows_NT),
        "windows": len(windows_NT),
        "sequence_length": windows_NT.shape[1],
        "text": text.describe(),
        "parameters": loaded.num_parameters(),
        "model": model,
    }
