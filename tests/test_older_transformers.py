"""Stock checkpoints mean the same to transformers 4 and 5, whichever of them wrote the parent.

What needs transformers 4 is skipped unless BONSAI_TRANSFORMERS_4 names a folder that holds it:

    pip install --target FOLDER --no-deps "transformers==4.57.*" "tokenizers>=0.22,<0.23" "huggingface_hub>=0.34,<1.0"
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import older_parents
import torch
from conftest import optional
from safetensors.torch import load_file

from bonsai_core import RunConfig, run

FOLDER = os.environ.get("BONSAI_TRANSFORMERS_4")
needs_4 = optional(FOLDER, "BONSAI_TRANSFORMERS_4 names no folder with transformers 4")


def in_version_4(modules: Path, *arguments: str | Path) -> str:
    """Run the helper with transformers 4, which puts code of checkpoints into a folder; what it prints."""
    assert FOLDER is not None
    result = subprocess.run(
        [sys.executable, older_parents.__file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": FOLDER, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def prune(parent: Path, out: Path, text: Path, **settings: object) -> Path:
    """The checkpoint of a run that chooses at random."""
    base = {
        "model": str(parent),
        "dataset": str(text),
        "out": out,
        "prior": "random",
        "estimator": "none",
        "compensator": "none",
        "round_fraction": 1.0,
        "samples": 1,
        "prior_samples": 1,
        "held_out_samples": 0,
        "guard_samples": 0,
        "eval_samples": 1,
        "sequence_length": 16,
        "eval_sequence_length": 16,
        "latency": False,
    }
    return run(RunConfig.from_mapping(base | settings, "a test")).model_path


PRUNED: dict[str, dict[str, object]] = {
    "uniform": {"shapes": "uniform", "sparsity": 0.3},
    "depth": {"units": "layer", "protect": [0, 1, 3, 4], "sparsity": 0.1},
}


@needs_4
def test_stock_checkpoints_are_read_alike_and_free_ones_say_what_they_need(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join([older_parents.TEXT] * 20), encoding="utf-8")
    parents = {version: tmp_path / str(version) for version in (4, 5)}
    in_version_4(tmp_path, "make", parents[4])
    older_parents.make(parents[5])
    stock = list(parents[4].iterdir())  # the dense models; those of version 5 are not for version 4
    for version, folder in parents.items():
        for name in older_parents.MODELS:
            for shapes, settings in PRUNED.items():
                stock.append(prune(folder / name, tmp_path / f"{version}-{name}-{shapes}", text, **settings))
    free = prune(parents[5] / "llama3", tmp_path / "free", text)

    said = in_version_4(tmp_path, "read", tmp_path / "found.safetensors", *stock, free)
    assert said.startswith(f"{free}: This checkpoint needs transformers >= 5.14 (installed: 4.")
    assert "--shapes uniform" in said
    found = load_file(tmp_path / "found.safetensors")
    assert len(found) == 2 * len(stock) == 2 * 5 * len(older_parents.MODELS)
    for folder in stock:
        for key, expected in older_parents.read(folder).items():
            value = found[f"{folder}:{key}"]
            assert torch.allclose(value, expected, rtol=1e-5, atol=1e-5), f"{folder}: {key}"
