"""transformers 4.57 computes what version 5 does. Last run 2026-11-28: 4.57.6 with torch 2.13.0; all passed.

Skipped unless BONSAI_TRANSFORMERS4_PYTHON names the interpreter of an environment with it:

    python -m venv FOLDER && FOLDER/bin/pip install torch "transformers==4.57.*"
    BONSAI_TRANSFORMERS4_PYTHON=FOLDER/bin/python pytest tests/runtimes/test_transformers4.py
"""

from __future__ import annotations

import os
from pathlib import Path

import older_parents
import pytest
from conftest import PICOS, Pico, saved
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, export

PYTHON = os.environ.get("BONSAI_TRANSFORMERS4_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="BONSAI_TRANSFORMERS4_PYTHON names no interpreter")


def verify(directory: Path, out: Path, registry: Registry) -> None:
    done = export(str(directory), "stock", out, verify=True, python=PYTHON, registry=registry, warn=lambda text: None)
    assert done.verification is not None, done.unverified
    assert done.verification.runtime.startswith("transformers 4.57")
    assert done.verification.same_tokens == done.verification.new_tokens


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_every_family(pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    verify(saved(pico, tokenizer, tmp_path / "model"), tmp_path / "out", registry)


@pytest.mark.parametrize("name", older_parents.MODELS)
def test_other_bases_of_positions_and_their_scaling(registry: Registry, tmp_path: Path, name: str) -> None:
    older_parents.make(tmp_path / "models")
    verify(tmp_path / "models" / name, tmp_path / "out", registry)
