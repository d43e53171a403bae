"""Checkpoints in the formats of runtimes: what is written is the model, or there is an error and no file."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from huggingface_hub import constants
from rich.console import Console

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
from bonsai_core.checkpoint.modeling_bonsai import FILE_NAME as MODELING
from bonsai_core.cli.exports import runtime_view
from bonsai_core.engine.exports import export_for_runtimes
from bonsai_core.engine.page import page_of
from bonsai_core.model.loading.saved import has_own_code
from bonsai_core.rundir import RunDirectory
from bonsai_core.runtimes import export as exporting
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import verify_if_possible
from bonsai_core.runtimes.formats import default_path, find_exporter
from bonsai_core.runtimes.record import RECORD_NAME
from bonsai_core.runtimes.runner import running
from bonsai_core.runtimes.verify import Reference, compare, reference


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
    # What is said to verify it does not run into what is there already.
    again = str(exported.unverified).partition("bonsai export ")[2]
    assert f"--format hf --out {tmp_path}/verified-out --verify --python PATH" in again


def test_where_the_runtime_is_missing_nothing_is_computed_for_it(
    free_run: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runner.py").write_text("import no_such_runtime\n")
    exporter = find_exporter("hf", registry)
    monkeypatch.setattr(type(exporter), "runner", tmp_path / "runner.py")
    checkpoint = open_checkpoint(str(free_run), registry, print)

    def expected() -> Reference:
        raise AssertionError("the reference was computed")

    exported = verify_if_possible(exporter, checkpoint, free_run / "model", expected)
    assert "no_such_runtime is not installed" in str(exported.unverified)


def test_what_could_not_be_verified_is_verified_later(
    free_run: Path, small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(free_run, tmp_path / "run")
    config = small_run.model_copy(update={"runtimes": ("hf",)})
    with monkeypatch.context() as less:
        less.setattr(exporting, "free_bytes", lambda device: 1000)
        (first,) = export_for_runtimes(run, config, registry)
    assert first.unverified is not None
    (second,) = export_for_runtimes(run, config, registry)
    assert second.verification is not None


def test_what_verifies_a_variant_again_names_it(free_run: Path, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho \'{"missing": "vllm"}\'\n')
    (tmp_path / "python").chmod(0o755)
    given: dict[str, Any] = {"verify": True, "python": str(tmp_path / "python"), "registry": registry}
    exported = export(str(free_run), "vllm:1", tmp_path / "two words", **given)
    assert f"--format vllm --format.tensor-parallel 1 --out '{tmp_path}/verified-two words'" in str(exported.unverified)


def test_a_model_that_does_not_fit_in_float32_is_not_verified(
    free_run: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "free_bytes", lambda device: 1000)
    exported = export(str(free_run), "hf", tmp_path / "out", verify=True, registry=registry)
    assert "in float32, and 0.0 GB are free" in str(exported.unverified)
    assert exported.path.is_dir()


def test_code_that_stands_beside_a_stock_model_is_not_ours(pico_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(pico_directory, tmp_path / "model")
    (tmp_path / "model" / MODELING).write_text("raise SystemExit\n")
    assert not has_own_code(tmp_path / "model")


def test_a_model_in_the_working_directory_is_exported_beside_it(
    pico_directory: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pico_directory, tmp_path / "pico")
    monkeypatch.chdir(tmp_path / "pico")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".", "~/pico"):
        assert default_path(name, "hf", find_exporter("hf", registry)) == tmp_path / "pico-hf"


def test_a_model_of_the_hub_is_exported_with_its_tokenizer(
    pico_directory: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = tmp_path / "hub" / "models--me--pico" / "snapshots" / ("f" * 40)
    snapshot.parents[1].joinpath("refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(pico_directory, snapshot)
    shutil.move(snapshot / "tokenizer.json", tmp_path / "tokenizer.json")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    real = huggingface_hub.snapshot_download

    def download(source: str, **settings: Any) -> str:
        if "tokenizer.json" in settings["allow_patterns"]:
            shutil.copy(tmp_path / "tokenizer.json", snapshot)
        return str(real(source, cache_dir=tmp_path / "hub", **settings))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert (open_checkpoint("me/pico", registry, print).path / "tokenizer.json").is_file()


RUNNER = """
from __future__ import annotations

import dataclasses, os, subprocess, sys

@dataclasses.dataclass
class Kept:
    path: str
    started: subprocess.Popen | None = None

class Model:
    runtime = "odd 1.0"

    def __init__(self, path, options):
        self.kept = Kept(path)
        print("welcome to odd")
        subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read())"], check=True)
        assert sys.stdin.read() == ""

    def log_probabilities(self, tokens):
        self.kept.started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return [self.kept.started.pid]

    def generate(self, tokens, count):
        return [path for path in sys.path if path.endswith("runtimes")]

    def time(self, batch, prompt_tokens, new_tokens):
        os._exit(3)
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = tmp_path / "odd runner.py"
    path.write_text(RUNNER)
    return path


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_runtime_may_print_and_read_and_start_others_which_end_with_it(odd: Path, tmp_path: Path) -> None:
    with running(odd, tmp_path) as model:
        (started,) = map(int, model.log_probabilities([1, 2]))
        assert alive(started)
        assert model.generate([1], 2) == []
    for _ in range(100):
        if alive(started):
            time.sleep(0.05)
    assert not alive(started)


def test_a_runtime_that_dies_says_so_at_every_call(odd: Path, tmp_path: Path) -> None:
    with running(odd, tmp_path) as model:
        with pytest.raises(BonsaiError, match=r"odd 1\.0 cannot time: the process ended with status 3"):
            model.time(1, 2, 3)
        for _ in range(2):
            with pytest.raises(BonsaiError, match=r"odd 1\.0 cannot time: the process had ended"):
                model.time(1, 2, 3)


@pytest.mark.parametrize("printed", ["(base) welcome", "1", "[]"])
def test_a_program_that_prints_is_no_interpreter(odd: Path, tmp_path: Path, printed: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{printed}'\nexec {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    with (
        pytest.raises(BonsaiError, match="Give the Python interpreter itself"),
        running(odd, tmp_path, python=str(python)),
    ):
        pass


def test_interpreters_are_paths_as_people_type_them(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "env" / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for python in ("env/python", "./env/python", "~/env/python"):
        with running(odd, tmp_path, python=python) as model:
            assert model.runtime == "odd 1.0"


def test_too_few_tokens_are_no_verification(free_run: Path, registry: Registry) -> None:
    expected = reference(open_checkpoint(str(free_run), registry, print))

    class Short:
        runtime = "short 1.0"
        log_probabilities = staticmethod(lambda tokens: expected.log_probabilities.tolist())
        generate = staticmethod(lambda tokens, count: expected.continuation[:3])

    short: Any = Short()
    with pytest.raises(BonsaiError, match="generates 3 tokens where it is asked for 24"):
        compare(short, expected, 1e-3)


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
    assert "bonsai export" in said(tmp_path / "run", with_narrow)
    bonsai_core.resume(tmp_path / "run", registry=with_narrow)
    assert exported.path.is_file()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert f"narrow {moved / exported.path.name}" in said(moved, with_narrow)
    there = bonsai_core.resume(moved, registry=with_narrow)
    assert isinstance(there, RunResult)
    path = moved / exported.path.name
    assert there.exported == (replace(exported, path=path, commands=[f"narrow {path}"]),)
    # What a stranger's record says is not what users are told to type.
    record = moved / RECORD_NAME
    record.write_text(record.read_text().replace('"narrow ', '"rm -r '))
    assert "rm -r" not in said(moved, with_narrow)
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(BonsaiError, match="is a pipe"):
        said(moved, with_narrow)


def test_what_an_export_needs_first_is_said_where_it_is_offered(
    small_run: RunConfig, with_narrow: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = small_run.model_copy(update={"out": tmp_path / "run", "runtimes": ("narrow",), "page": True})
    run = bonsai_core.run(narrow, registry=with_narrow).directory
    monkeypatch.setattr(Narrow, "check_ready", missing)
    assert "Get <narrow>" not in said(run, with_narrow), "it has been exported already"
    (run / "model-narrow.txt").unlink()
    assert said(run, with_narrow).lstrip().startswith("needs first: Get <narrow> with: pip install narrow.\n")
    page = page_of(RunDirectory(run), RunDirectory(run).read_report(), with_narrow)
    assert "needs first: Get &lt;narrow&gt; with: pip install narrow." in page
    monkeypatch.undo()
    assert "Get <narrow>" not in said(run, with_narrow)


def missing(exporter: Exporter) -> None:
    raise BonsaiError("Get <narrow> with: pip install narrow.")


def said(run: Path, registry: Registry) -> str:
    """What a report says of the narrow runtime."""
    console = Console(width=500)
    with console.capture() as shown:
        console.print(runtime_view(run, registry))
    text = shown.get()
    return text[text.index("narrow-rt") :].partition("narrow-rt ")[2] or text


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


def test_a_plan_of_what_will_be_trained_is_refused_at_the_start(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    values = small_run.model_dump(exclude_unset=True) | {"runtimes": ["plan"], "adapt": "lora", "out": tmp_path / "run"}
    with pytest.raises(BonsaiError, match="cannot take what --adapt trains"):
        bonsai_core.run(RunConfig.from_mapping(values, "the test"), registry=registry)
    assert not (tmp_path / "run").exists()
