"""Peak memory of pruning beside that of loading the same model and running it once, each in a process of its own.

    python benchmarks/memory.py [--model demo]

Both sides read the same evaluation windows in the same batches; the ratio is what law 9 is about.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

INFERENCE = """
import json, sys
from bonsai_core import EvalConfig, evaluate
from bonsai_core.model.latency import peak_bytes
from bonsai_core.model.placement import find_device
evaluate(EvalConfig(models=(sys.argv[1],), dense="none"))
print(json.dumps(peak_bytes(find_device("auto"))))
"""
PRUNING = """
import json, sys, tempfile
from pathlib import Path
from bonsai_core import RunConfig, run
with tempfile.TemporaryDirectory() as folder:
    report = run(RunConfig(model=sys.argv[1], submodels=4, latency=False, out=Path(folder) / "run")).report
print(json.dumps(report["memory"]["peak_bytes"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    model = parser.parse_args().model
    inference, pruning = (_peak(script, model) for script in (INFERENCE, PRUNING))
    print(f"inference {inference / 1e6:,.0f} MB, pruning {pruning / 1e6:,.0f} MB, ratio {pruning / inference:.2f}")


def _peak(script: str, model: str) -> int:
    done = subprocess.run([sys.executable, "-c", script, model], check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
