"""Whether a pruned model is as much faster and smaller than the dense one as it should be, in each runtime.

    python benchmarks/speed_bars.py RUN [--runtime transformers,llama.cpp=PYTHON,vllm=PYTHON] [--out STEM]

RUN is a run directory, such as one of `bonsai run --sparsity 0.5 --for vllm,llama.cpp`. The machine should do nothing
else. Every median is printed beside its bar, and the exit status is 1 if one is below it. A runtime that is not
installed is named, and not judged. With --out, STEM.svg and STEM.png show the ratios.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bonsai_core import BenchConfig, BonsaiError, bench, export
from bonsai_core.runtimes.bench_plot import draw_bench

SERVERS = ("llama.cpp", "vllm")
"""The runtimes that serve models."""
BARS = {"prefill": 1.6, "decode": 1.4}
"""How many times as fast as the dense model it should be in them, at least."""
NOT_SLOWER = 1.0
"""The same in every other runtime."""
FORMAT, LARGEST = "gguf:q4_k_m", 0.75
"""A quantised format, and the largest share of the dense model's file that the pruned one's may be."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--runtime", default="transformers,llama.cpp,vllm")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--prompt-tokens", default="128,512")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    args = vars(parser.parse_args())
    run, out = args.pop("run"), args.pop("out")
    results = bench(BenchConfig.from_mapping({**args, "models": [run]}, "the options"), warn=print)
    if out is not None:
        draw_bench(results, out)
    met = []
    for row in results["results"]:
        served = any(name in row["runtime"].lower() for name in SERVERS)
        for phase, times in row["models"][1]["speedup"].items():
            bar = BARS[phase] if served else NOT_SLOWER
            met.append(times["median"] >= bar)
            what = f"{row['runtime']}, {phase}, {row['batch']} x {row['prompt_tokens']}"
            spread = f"{times['median']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
            print(f"{'met' if met[-1] else 'MISSED'}: {what}: {spread}, bar {bar}")
    try:
        met.append(smaller(results["dense"], run))
    except BonsaiError as error:
        print(f"not judged: {FORMAT}: {error}")
    sys.exit(not all(met))


def smaller(dense: str, run: str) -> bool:
    """Whether the quantised file is as small as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [
            export(model, FORMAT, Path(folder) / f"{number}.gguf", warn=print).path.stat().st_size
            for number, model in enumerate((dense, run))
        ]
    share = sizes[1] / sizes[0]
    print(f"{'met' if share <= LARGEST else 'MISSED'}: {FORMAT}: {share:.2f} of the dense file, bar {LARGEST}")
    return share <= LARGEST


if __name__ == "__main__":
    main()
