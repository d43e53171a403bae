"""The built wheel, installed where the checkout cannot be seen: it has all modules, the entry points, the command.

`BONSAI_WHEEL` names the wheel. Its environment is new, but sees the packages of this one, so that they need not be
installed again; it does not prove that the wheel asks for all that it needs. An editable installation is not seen
there, because path files of added folders are not read.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.optional
WHEEL = Path(os.environ["BONSAI_WHEEL"])


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the commands of an environment that has the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    (Path(paths["purelib"]) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = Path(paths["scripts"]) / "python"
    words = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--ignore-installed", str(WHEEL)]
    subprocess.run([python, *words], check=True)
    return python.parent


def output(scripts: Path, *words: str) -> str:
    """What a command of the environment prints; it runs in the environment's folder, without PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}
    command = [str(scripts / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=scripts, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_modules_are_its_own(scripts: Path) -> None:
    code = "import bonsai_core, bonsai_plugins; print(bonsai_core.__file__, bonsai_plugins.__file__)"
    for file in output(scripts, "python", "-c", code).split():
        assert Path(file).is_relative_to(scripts.parent)


def test_it_has_the_plugins(scripts: Path) -> None:
    listed = output(scripts, "bonsai", "plugins")
    assert "wanda" in listed
    assert "least_squares" in listed


def test_it_prunes_a_model(scripts: Path, pico_directory: Path, tmp_path: Path) -> None:
    small = ["--submodels", "4", "--samples", "2", "--sequence-length", "32", "--eval-sequence-length", "64"]
    words = ["run", "--model", str(pico_directory), *small, "--eval-samples", "2", "--no-latency"]
    output(scripts, "bonsai", *words, "--out", str(tmp_path / "run"))
    assert (tmp_path / "run" / "report.json").is_file()
    assert (tmp_path / "run" / "model" / "config.json").is_file()
