"""A run on a tiny random model: whether the installation computes, on every device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bonsai_core.config import RunConfig
from bonsai_core.doctor.finding import Finding
from bonsai_core.errors import shortened
from bonsai_core.registry.registry import Registry

CHARACTERS = 10_000
"""Of text: enough for windows of every kind, and quickly cut into tokens."""


def trials(registry: Registry) -> Iterator[Finding]:
    """One run per device: sub-models are measured, units removed and repaired, and the checkpoint is loaded again."""
    import torch

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for name in [*names, *(["mps"] if torch.backends.mps.is_available() else [])]:
        started = time.perf_counter()
        try:
            _prune(name, registry)
        except Exception as error:  # an installation that is broken may raise anything; that is what is looked for
            reason = shortened(f"{type(error).__name__}: {error}")
            advice = "Run `bonsai doctor --json` and report its output, or reinstall torch and transformers."
            yield Finding("trial run", name, reason, "broken", advice)
        else:
            seconds = time.perf_counter() - started
            yield Finding("trial run", name, f"a tiny model was pruned and loaded again in {seconds:.1f} s")


def _prune(device: str, registry: Registry) -> None:
    from bonsai_core.engine.lifecycle import run
    from bonsai_core.sources import load_text
    from bonsai_core.testing.examples import save_example

    with tempfile.TemporaryDirectory(prefix="bonsai-doctor-") as folder:
        model, text = Path(folder, "model"), Path(folder, "text.txt")
        save_example(model)
        text.write_text(load_text("builtin")[0].text[:CHARACTERS], encoding="utf-8")
        config = RunConfig(
            model=str(model),
            dataset=str(text),
            guard_dataset="none",
            device=device,
            sparsity=0.3,
            round_fraction=0.3,
            submodels=8,
            samples=2,
            prior_samples=8,
            eval_samples=2,
            sequence_length=32,
            eval_sequence_length=64,
            round_to=1,
            latency=False,
            page=False,
            out=Path(folder, "run"),
        )
        run(config, registry=registry)
