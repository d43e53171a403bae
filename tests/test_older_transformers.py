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
import pytest
import torch
from safetensors.torch import load_file

from bonsai_core import RunConfig, run

FOLDER = os.environ.get("BONSAI_TRANSFORMERS_4")
needs_4 = pytest.mark.skipif(FOLDER is None, reason="BONSAI_TRANSFORMERS_4 names no folder with transformers 4")


def in_version_4(modules: Path, *arguments: str | Path) -> str:
    """Run the helper with transformers 4, which puts code of checkpoints into a folder; what it says if it fails."""
    assert FOLDER is not None
    result = subprocess.run(
        [sys.executable, older_parents.__file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": FOLDER, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else result.stderr


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
        "eval_samples": 1,
        "sequence_length": 16,
        "eval_sequence_length": 16,
        "latency": False,
    }
    return run(RunConfig.from_mapping(base | settings, "a test")).model_path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join([older_parents.TEXT] * 20), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of models by the version that wrote them."""
    root = tmp_path_factory.mktemp("parents")
    older_parents.make(root / "5")
    assert not in_version_4(root, "make", root / "4")
    return {4: root / "4", 5: root / "5"}


PRUNED: dict[str, dict[str, object]] = {
    "uniform": {"shapes": "uniform", "sparsity": 0.3},
    "depth": {"units": "layer", "protect": [0, 1, 3, 4], "sparsity": 0.1},
}


@needs_4
def test_both_versions_give_the_same_logits(parents: dict[int, Path], text: Path, tmp_path: Path) -> None:
    for version, folder in parents.items():
        for name in older_parents.MODELS:
            for shapes, settings in PRUNED.items():
                prune(folder / name, tmp_path / f"{version}-{name}-{shapes}", text, **settings)
    folders = [*parents[4].iterdir(), *(path / "model" for path in tmp_path.iterdir())]
    assert len(folders) == 5 * len(older_parents.MODELS)
    assert not in_version_4(tmp_path, "read", tmp_path / "found.safetensors", *folders)
    found = load_file(tmp_path / "found.safetensors")
    for folder in folders:
        for key, expected in older_parents.read(folder).items():
            value = found[f"{folder}:{key}"]
            assert torch.allclose(value, expected, rtol=1e-5, atol=1e-5), f"{folder}: {key}"


@needs_4
def test_free_shapes_say_which_version_they_need(parents: dict[int, Path], text: Path, tmp_path: Path) -> None:
    checkpoint = prune(parents[5] / "llama3", tmp_path / "run", text)
    said = in_version_4(tmp_path, "read", tmp_path / "found.safetensors", checkpoint)
    assert "ImportError: This checkpoint needs transformers >= 5.14 (installed: 4." in said
    assert "--shapes uniform" in said
