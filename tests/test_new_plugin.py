"""`bonsai new-plugin`: a package of each kind is written, built, installed beside Bonsai, and passes its own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hatchling.builders.wheel import WheelBuilder

from bonsai_core import BonsaiError, Registry
from bonsai_core.cli.main import cli
from bonsai_core.registry.registry import KINDS
from bonsai_core.scaffold.new_plugin import PLUGIN_KINDS, requirement, write_plugin

ROOT = Path(__file__).parent.parent


def package(kind: str) -> str:
    """A name for an example of each kind; that its first letter changes shows whether imports are sorted for all."""
    return f"bonsai-a-{kind}" if kind < "m" else f"zoo-{kind}"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """A folder with a package of each kind, and the wheels of all unpacked into `installed`."""
    folder = tmp_path_factory.mktemp("new-plugins")
    for kind in PLUGIN_KINDS:
        path = write_plugin(package(kind), kind, folder, registry)
        for wheel in WheelBuilder(str(path)).build(directory=str(folder / "wheels")):
            zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder


def run(packages: Path, *words: str) -> str:
    path = os.pathsep.join(filter(None, [str(packages / "installed"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, cwd=packages)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_each_kind_pass_at_once(packages: Path) -> None:
    done = run(packages, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", "-v", "-W", "error", ".")
    passed = {name.split("/")[0] for name in re.findall(r"^(\S+)::\S+ PASSED", done, flags=re.MULTILINE)}
    assert passed == {package(kind) for kind in PLUGIN_KINDS}


def test_each_kind_is_found_without_problems(packages: Path) -> None:
    shown = run(packages, "-c", "from bonsai_core.cli import main; main()", "plugins")
    lines = [line.split() for line in shown.splitlines()]
    listed = {(line[0], line[1], line[-1]) for line in lines if len(line) > 2}
    assert {(kind, package(kind).removeprefix("bonsai-"), package(kind)) for kind in KINDS} <= listed
    assert not [line for line in lines if line[0] == "Problem:"]


def test_what_is_written_is_formatted_and_typed(packages: Path) -> None:
    for tool in ("ruff", "mypy"):
        pytest.importorskip(tool, reason="of the extra dev")
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for kind in PLUGIN_KINDS:  # each in its own folder, whose module is then its own
        for words in (["check"], ["format", "--check"]):
            check([sys.executable, "-m", "ruff", *words, *settings], packages / package(kind))
    written = [file.relative_to(packages) for kind in PLUGIN_KINDS for file in (packages / package(kind)).glob("*.py")]
    assert len(written) == 2 * len(PLUGIN_KINDS)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    check([sys.executable, "-m", "mypy", *settings, *map(str, written)], packages)


def check(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Peak", "prior", "lower-case letters"),
        ("my_peak", "prior", "lower-case letters"),
        ("-peak", "prior", "lower-case letters"),
        ("peak-", "prior", "lower-case letters"),
        ("../peak", "prior", "lower-case letters"),
        ("peak\n", "prior", "lower-case letters"),
        ("p" * 61, "prior", "lower-case letters"),
        ("", "prior", "lower-case letters"),
        ("bonsai-2nd", "prior", "begin with a letter"),
        ("import", "prior", "Python's own"),
        ("json", "prior", "Python's own"),
        ("bonsai-true", "prior", "the class would be called True"),
        ("bonsai-prior", "prior", "the class would be called Prior, as one that it imports"),
        ("bonsai-prior-contract", "prior", "the class would be called PriorContract"),
        ("bonsai-event", "observer", "the class would be called Event"),
        ("bonsai-prune", "prior", "bonsai-prune is installed already"),
        ("bonsai-core", "prior", "the Python module bonsai_core is installed already"),
        ("bonsai-wanda", "prior", "offers a prior 'wanda' already"),
        ("bonsai-hf", "exporter", "offers an exporter 'hf' already"),
        ("bonsai-peak", "priors", "Did you mean 'prior'"),
    ],
)
def test_names_that_cannot_be_are_refused_and_nothing_is_written(
    registry: Registry, tmp_path: Path, name: str, kind: str, message: str
) -> None:
    with pytest.raises(BonsaiError, match=re.escape(message)):
        write_plugin(name, kind, tmp_path, registry)
    assert not list(tmp_path.iterdir())


def test_names_are_taken_within_a_kind(registry: Registry, tmp_path: Path) -> None:
    assert write_plugin("bonsai-wanda", "sampler", tmp_path, registry).is_dir()


def test_the_longest_names_still_make_modules(registry: Registry, tmp_path: Path) -> None:
    for kind in PLUGIN_KINDS:
        path = write_plugin("a" * (60 - len(kind)) + kind, kind, tmp_path, registry)
        for file in path.glob("*.py"):
            compile(file.read_text(encoding="utf-8"), file.name, "exec")


def test_what_is_there_is_never_overwritten(registry: Registry, tmp_path: Path) -> None:
    for name in ("folder", "file", "link"):
        path = tmp_path / f"bonsai-{name}"
        match name:
            case "folder":
                path.mkdir()
            case "file":
                path.write_text("mine")
            case "link":
                path.symlink_to(tmp_path / "nothing")
        with pytest.raises(BonsaiError, match="nothing is overwritten"):
            write_plugin(path.name, "prior", tmp_path, registry)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bonsai-file", "bonsai-folder", "bonsai-link"]
    assert not list((tmp_path / "bonsai-folder").iterdir())
    assert (tmp_path / "bonsai-file").read_text() == "mine"


def test_it_is_written_whole_or_not_at_all(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_text

    def full_after_two(path: Path, *arguments: Any, **settings: Any) -> int:
        if len(list(path.parent.iterdir())) == 2:
            raise OSError(28, "No space left on device")
        return written(path, *arguments, **settings)

    monkeypatch.setattr(Path, "write_text", full_after_two)
    with pytest.raises(BonsaiError, match=r"bonsai-peak: No space left on device\. Make room"):
        write_plugin("bonsai-peak", "prior", tmp_path, registry)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["new-plugin", "bonsai-peak", "--kind", "prior"])
    assert done.exit_code == 0, done.output
    assert f"{sys.executable} -m pip install -e './bonsai-peak[test]'" in done.output
    for file in (tmp_path / "bonsai-peak").iterdir():
        assert f"bonsai-peak/{file.name}" in done.output


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("0.2.0", ">=0.2,<0.3"), ("0.10.3", ">=0.10,<0.11"), ("1.4.2", ">=1.4,<2"), ("2.0.0rc1", ">=2.0,<3")],
)
def test_the_versions_asked_for_are_those_that_break_nothing(version: str, wanted: str) -> None:
    assert requirement(version) == f"bonsai-prune{wanted}"
