"""Runs the laws on releases of transformers: by default on the oldest and the newest one that pyproject.toml allows.

    .venv/bin/python benchmarks/transformers_versions.py                        # about 10 minutes a release on 2 cores
    .venv/bin/python benchmarks/transformers_versions.py 5.18.0 -- -k adapt     # another one; the rest is for pytest

Each release gets an environment of its own, which sees the packages of this one, plus those that the release needs in
other versions. The tests are those that use internals of transformers. Raise the upper bound when a newer release
passes; if one fails, change `bonsai_core/upstream.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ["laws", "families", "recognise", "checkpoint", "weights_elsewhere", "adaptation", "adaptation_ranks"]
# transformers 5.14 compiles a function of GPT-BigCode in a way that torch 2.13 warns of.
IGNORED = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"


def promised() -> list[str]:
    """The requirements for the oldest and the newest release that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bounds,) = (text for text in project["dependencies"] if re.match(r"transformers\b", text))
    oldest = re.search(r">=([\d.]+)", bounds)
    assert oldest is not None
    return [f"transformers=={oldest[1]}.*", bounds]


def check(wanted: str, folder: Path, arguments: list[str]) -> bool:
    """Whether the tests pass with a release."""
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    (Path(paths["purelib"]) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = str(Path(paths["scripts"]) / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}", "OMP_NUM_THREADS": "1"}
    subprocess.run([*install, "--ignore-installed", "--no-deps", wanted], check=True)
    subprocess.run([*install, wanted], check=True)  # what it needs in other versions
    subprocess.run([python, "-c", "import transformers; print('transformers', transformers.__version__)"], check=True)
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS]
    tests = [python, "-m", "pytest", "-q", "-W", IGNORED, *files, *arguments]
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    releases, arguments = [f"transformers=={version}" for version in sys.argv[1:split]], sys.argv[split + 1 :]
    failed = []
    for wanted in releases or promised():
        with tempfile.TemporaryDirectory() as folder:
            if not check(wanted, Path(folder), arguments):
                failed.append(wanted)
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
