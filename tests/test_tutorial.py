"""Write a prior in 20 minutes (docs/plugins/prior.md), done word for word: its files are built, installed and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "plugins" / "prior.md"


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the tutorial's files, its wheel unpacked into `installed`."""
    folder = tmp_path_factory.mktemp("tutorial")
    blocks = re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["pyproject.toml", "bonsai_peak.py", "test_peak.py"]
    for name, block in blocks:
        (folder / name).write_text(block)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "built"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "built").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder


def run(tutorial: Path, *words: str) -> str:
    path = os.pathsep.join(filter(None, [str(tutorial / "installed"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tutorial)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_prior_prunes_a_model(tutorial: Path, pico_directory: Path, tmp_path: Path) -> None:
    small = ["--submodels", "4", "--samples", "2", "--sequence-length", "32", "--eval-sequence-length", "64"]
    command = ["run", "--prior", "peak", "--prior.power", "6", "--model", str(pico_directory)]
    main = "from bonsai_core.cli import main; main()"
    run(tutorial, "-c", main, *command, *small, "--no-latency", "--out", str(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["config"]["prior"] == {"name": "peak", "power": 6}


def test_it_passes_the_contract_it_inherits(tutorial: Path) -> None:
    assert "passed" in run(tutorial, "-m", "pytest", "-q", "test_peak.py", "-p", "no:cacheprovider")
