"""Zero-shot accuracy of several models on multiple-choice questions, side by side.

    python benchmarks/zero_shot.py --questions arc_easy.jsonl piqa.jsonl --models demo runs/demo-20/model

Rows are {"question", "choices", "gold"}. A choice's score is its log-likelihood after the question; `per byte` divides
it by the choice's length. All models answer the same questions; standard errors are those of a proportion.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from bonsai_core import Answers, load_model
from bonsai_core.model.load import find_source, load_tokenizer
from bonsai_core.model.passes import Passes
from bonsai_core.sources import draw_questions, read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--questions", nargs="+", required=True)
    parser.add_argument("--num-questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = [Path(name).stem for name in args.questions]
    print("| model |", " | ".join(f"{name}, % | per byte, %" for name in names), "|")
    print("| --- |", " | ".join(["---: | ---:"] * len(names)), "|")
    for name in args.models:
        cells = [_accuracies(name, file, args.num_questions, args.seed) for file in args.questions]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


def _accuracies(name: str, questions: str, num_questions: int, seed: int) -> str:
    source = find_source(name)
    tokenizer = load_tokenizer(source)
    drawn = draw_questions(read_rows(questions), tokenizer, num_questions=num_questions, seed=seed, draw=0, warn=print)
    answers = Passes(load_model(source), 16, on_warning=print).answers(drawn)
    return " | ".join(_with_error(np.mean([_right(a, by_byte) for a in answers]), len(answers)) for by_byte in (0, 1))


def _right(answers: Answers, by_byte: int) -> bool:
    scores = answers.log_likelihood / (answers.num_bytes if by_byte else 1)
    return bool(np.argmax(scores) == answers.gold)


def _with_error(share: float, count: int) -> str:
    return f"{share:.1%} ± {math.sqrt(share * (1 - share) / count):.1%}".replace("%", "")


if __name__ == "__main__":
    main()
