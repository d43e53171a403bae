"""Checkpoints in the formats of runtimes: what is written is the model, or there is an error and no file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bonsai_core
from bonsai_core import BonsaiError, Registry, RunConfig, export
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import find_exporter


@pytest.fixture(scope="module")
def free_run(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned pico model whose layers differ in width."""
    out = tmp_path_factory.mktemp("runs") / "free"
    return bonsai_core.run(small_run.model_copy(update={"out": out}), registry=registry).directory


def test_what_is_exported_is_the_model_in_a_process_of_its_own(
    free_run: Path, registry: Registry, tmp_path: Path
) -> None:
    exported = export(str(free_run), "hf", tmp_path / "out", verify=True, registry=registry)
    assert exported.verification is not None
    assert exported.verification.difference < 1e-4
    assert exported.verification.same_tokens == exported.verification.new_tokens


def test_another_model_is_found_out(free_run: Path, pico_directory: Path, registry: Registry, tmp_path: Path) -> None:
    from bonsai_core.runtimes.runner import running
    from bonsai_core.runtimes.verify import compare, reference

    exporter = find_exporter("hf", registry)
    assert exporter.runner is not None
    with running(exporter.runner, pico_directory) as dense, pytest.raises(BonsaiError, match="another model"):
        compare(dense, reference(open_checkpoint(str(free_run), registry, print)), 1e-3)


def test_nothing_is_overwritten(free_run: Path, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BonsaiError, match="exists already"):
        export(str(free_run), "hf", tmp_path / "mine", registry=registry)


@pytest.mark.parametrize(("format", "message"), [("nothing", "no exporter 'nothing'"), ("hf:q8_0", "no variants")])
def test_formats_that_are_not_there_say_so(
    free_run: Path, registry: Registry, tmp_path: Path, format: str, message: str
) -> None:
    with pytest.raises(BonsaiError, match=message):
        export(str(free_run), format, tmp_path / "out", registry=registry)
    assert not any(tmp_path.iterdir())


def test_an_environment_without_the_runtime_is_no_failure(free_run: Path, registry: Registry, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps({'missing': 'transformers'})}'\n")
    python.chmod(0o755)
    exported = export(str(free_run), "hf", tmp_path / "out", verify=True, python=str(python), registry=registry)
    assert exported.verification is None
    assert "transformers is not installed" in str(exported.unverified)
