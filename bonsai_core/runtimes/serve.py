"""Runs in a process of its own, maybe of another environment: serves a model that a runner loads, until stdin ends.

    python serve.py RUNNER

RUNNER is a Python file. It imports its runtime, or names the packages that `Model` will import in a tuple `REQUIRES`.
It has a class `Model`, made by ``Model(path, options)``:

    runtime: str                                        what runs it, with its version
    log_probabilities(tokens) -> list[float]            of tokens[1:], each given those before it, nats
    generate(tokens, count) -> list[int]                the likeliest next token, `count` times, past any end of text
    time(batch, prompt_tokens, new_tokens) -> (s, s)    seconds to the first token, and per token after it

Options are ``threads`` (null for the runtime's own choice), ``device`` (``cpu``, ``cuda`` ...), ``dtype`` (``float32``
...) and ``trust_remote_code`` (whether Python code beside the model may run).

The first answer comes when RUNNER is imported. Then requests are lines of JSON, ``{"call": NAME, "arguments": [...]}``:
first ``load`` with the path and the options, which answers with `runtime`, then the methods above. Answers are lines of
JSON too: ``{"value": ...}``, ``{"missing": PACKAGE}`` or ``{"error": ...}``. It needs the standard library alone.
"""

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def main() -> None:
    """Import the runner, say so, and answer."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # runtimes, and what they start, read no requests
    os.dup2(2, 1)  # what runtimes print is no answer
    here = Path(__file__).resolve().parent  # whose files are no modules that runtimes import
    sys.path[:] = [folder for folder in sys.path if not folder or Path(folder).resolve() != here]

    def answer(compute: Callable[[], object]) -> None:
        try:
            contents = {"value": compute()}
        except Exception as error:  # of any kind: it is the caller who says what it means
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            contents = {"missing": missing} if missing else {"error": traceback.format_exc()}
        answers.write(json.dumps(contents) + "\n")
        answers.flush()

    spec = importlib.util.spec_from_file_location("runner", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look types up there
    loader = spec.loader
    model: Any = None

    def imported() -> None:
        loader.exec_module(module)
        for package in getattr(module, "REQUIRES", ()):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"{package} is not installed", name=package)

    def asked(call: str, arguments: list[Any]) -> object:
        nonlocal model
        if call == "load":
            model = module.Model(*arguments)
            return model.runtime
        return getattr(model, call)(*arguments)

    answer(imported)
    for line in requests:
        request = json.loads(line)
        answer(partial(asked, request["call"], request["arguments"]))


if __name__ == "__main__":
    main()
