"""A package of somebody else, installed beside Bonsai: its prior and estimator work by name, options included."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bonsai_core import RunConfig

PACKAGE = Path(__file__).parent / "outside_plugin"
BONSAI = shutil.which("bonsai", path=str(Path(sys.executable).parent)) or "bonsai"
CHOSEN = ["--prior", "outside-magnitude", "--estimator", "outside-contrast"]


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package built and installed in it; a wheel is installed by unpacking, without any network."""
    folder = tmp_path_factory.mktemp("site-packages")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def bonsai(site_packages: Path, *words: str) -> str:
    done = execute(site_packages, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def execute(site_packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site_packages), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    return subprocess.run([BONSAI, *words], env=environment, capture_output=True, text=True)


def test_it_is_listed_with_its_distribution(site_packages: Path) -> None:
    lines = [line.rstrip() for line in bonsai(site_packages, "plugins").splitlines()]
    (prior,) = (line for line in lines if line.split()[:2] == ["prior", "outside-magnitude"])
    assert "Norm of the weights that read a unit." in prior
    assert prior.endswith("outside-bonsai")
    assert not any("Problem" in line for line in lines)


def test_its_options_are_in_the_help_when_it_is_chosen(site_packages: Path) -> None:
    shown = bonsai(site_packages, "run", *CHOSEN, "--help")
    assert "--estimator.trust" in shown
    assert "Weight of the measurements against the prior." in shown
    assert "[>= 0, <= 1; default: 1.0]" in shown
    assert "--estimator.folds" not in shown


def test_it_prunes_a_model_by_name(site_packages: Path, small_run: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small_run.to_yaml())
    bonsai(site_packages, "run", "--config", str(recipe), *CHOSEN, "--estimator.trust", "0.75", "--out", str(out))
    report = json.loads((out / "report.json").read_text())
    assert report["config"]["prior"] == "outside-magnitude"
    assert report["config"]["estimator"] == {"name": "outside-contrast", "trust": 0.75}
    assert [row["details"] for row in report["rounds"]] == [{"trust": 0.75}] * 2
    assert report["sparsity"]["decoder"] >= 0.3
    assert report["versions"]["outside-bonsai"] == "1.0"


def test_its_fault_is_not_called_one_of_bonsai(site_packages: Path, small_run: RunConfig, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small_run.to_yaml())
    words = ["--config", str(recipe), "--prior", "outside-broken", "--out", str(tmp_path / "run")]
    done = execute(site_packages, "run", *words)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "This is a fault in the plugin outside-broken of outside-bonsai, not in Bonsai: RuntimeError" in done.stderr
    assert re.search(r"\(__init__\.py, line \d+\)\. `bonsai plugins --check prior/outside-broken` may", done.stderr)
    assert "This is a fault in Bonsai" not in done.stderr
