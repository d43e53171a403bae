"""Peak memory of pruning beside that of loading the same model and running it once, each in a process of its own.

    python benchmarks/memory.py [--model demo] [--max-memory cpu=400MB]

Both sides read the same evaluation windows in the same batches, and give freed memory back as the command line does;
the ratio is what law 9 is about. With --max-memory the model is pruned once more, with only that much of it in
memory and the rest on disk, and sliced from file to file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

INFERENCE = """
import json, sys
from bonsai_core import EvalConfig, evaluate
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.storage.memory import return_large_blocks
from bonsai_core.model.storage.devices import find_device
return_large_blocks()
evaluate(EvalConfig(models=(sys.argv[1],), dense="none"))
print(json.dumps(peak_bytes(find_device("auto"))))
"""
PRUNING = """
import json, sys, tempfile
from pathlib import Path
from bonsai_core import RunConfig, run
from bonsai_core.model.storage.memory import return_large_blocks
return_large_blocks()
with tempfile.TemporaryDirectory() as folder:
    spread = {"device_map": "auto", "max_memory": sys.argv[2]} if sys.argv[2:] else {}
    report = run(RunConfig(model=sys.argv[1], submodels=4, latency=False, out=Path(folder) / "run", **spread)).report
print(json.dumps(report["memory"]["peak_bytes"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-memory", help="The model's memory limits, as for `bonsai run`.")
    args = parser.parse_args()
    inference, pruning = _peak(INFERENCE, args.model), _peak(PRUNING, args.model)
    print(f"inference {inference / 1e6:,.0f} MB, pruning {pruning / 1e6:,.0f} MB, ratio {pruning / inference:.2f}")
    if args.max_memory:
        spread = _peak(PRUNING, args.model, args.max_memory)
        print(f"pruning with {args.max_memory} {spread / 1e6:,.0f} MB, ratio {spread / inference:.2f}")


def _peak(script: str, *words: str) -> int:
    done = subprocess.run([sys.executable, "-c", script, *words], check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
