"""Checkpoints in the formats of runtimes: what is written is the model, or there is an error and no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

import bonsai_core
from bonsai_core import (
    BonsaiError,
    Checkpoint,
    Exporter,
    Family,
    Registry,
    RunConfig,
    RunResult,
    Shapes,
    export,
    hookimpl,
)
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import find_exporter
from bonsai_core.runtimes.runner import running
from bonsai_core.runtimes.verify import compare, reference


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


class Narrow(Exporter):
    """Takes only uniform models with widths in eights and two KV groups, and says what it was given."""

    name: ClassVar[str] = "narrow"
    runtime: ClassVar[str] = "narrow-rt"
    suffix: ClassVar[str] = ".txt"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        width = checkpoint.layers[0]["intermediate_size"]
        return None if checkpoint.stock and width % 8 == 0 else "it is not uniform in eights."

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        out.write_text(f"{checkpoint.model_type} {checkpoint.layers}")

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        return [f"narrow {out}"]

    def shapes(self, config: Any, family: Family) -> Shapes:
        return Shapes(uniform=True, min_units={"attention": 2}, round_to={"mlp": 8})


class NarrowPlugin:
    @hookimpl
    def bonsai_exporters(self) -> list[type[Exporter]]:
        return [Narrow]


@pytest.fixture
def with_narrow() -> Registry:
    registry = Registry()
    registry.register(NarrowPlugin(), "tests")
    return registry


def test_a_run_keeps_to_the_shapes_of_its_runtimes_and_exports_for_them(
    small_run: RunConfig, with_narrow: Registry, tmp_path: Path
) -> None:
    config = small_run.model_copy(update={"out": tmp_path / "run", "runtimes": ("narrow-rt",), "sparsity": 0.3})
    result = bonsai_core.run(config, registry=with_narrow)
    stored = result.report["config"]
    assert (stored["shapes"], stored["round_to"], stored["min_units"]) == ("uniform", {"mlp": 8}, {"attention": 2})
    (exported,) = result.exported
    assert exported.path == tmp_path / "run" / "model-narrow.txt"
    assert exported.path.read_text().startswith("llama ({'intermediate_size': ")
    written = exported.path.stat().st_mtime_ns
    again = bonsai_core.resume(tmp_path / "run", registry=with_narrow)
    assert isinstance(again, RunResult)
    assert again.exported == result.exported
    assert exported.path.stat().st_mtime_ns == written
    exported.path.unlink()
    bonsai_core.resume(tmp_path / "run", registry=with_narrow)
    assert exported.path.is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtimes": ["nothing"]}, "no runtime or format 'nothing'.*narrow-rt"),
        ({"runtimes": ["narrow"], "shapes": "free"}, "needs --shapes uniform"),
        ({"runtimes": ["narrow"], "units": ["sublayer", "mlp"]}, "units sublayer needs shapes free"),
    ],
)
def test_what_runtimes_cannot_take_is_refused_before_anything_is_measured(
    small_run: RunConfig, with_narrow: Registry, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    values = small_run.model_dump(exclude_unset=True) | {"out": tmp_path / "run"} | settings
    with pytest.raises(BonsaiError, match=message):
        bonsai_core.run(RunConfig.from_mapping(values, "the test"), registry=with_narrow)
    assert not (tmp_path / "run").exists()


def test_a_refused_export_says_why_and_which_formats_can(free_run: Path, with_narrow: Registry, tmp_path: Path) -> None:
    with pytest.raises(BonsaiError, match=r"narrow-rt cannot take .*not uniform in eights.*These formats can: .*hf"):
        export(str(free_run), "narrow", tmp_path / "out.txt", registry=with_narrow)
    assert not any(tmp_path.iterdir())
