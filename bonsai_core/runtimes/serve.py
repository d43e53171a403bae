"""Runs in a process of its own, maybe of another environment: serves a model that a runner loads, until stdin ends.

    python serve.py RUNNER MODEL OPTIONS

RUNNER is a Python file with a class `Model`, made by ``Model(path, options)``:

    runtime: str                                        what runs it, with its version
    log_probabilities(tokens) -> list[float]            of tokens[1:], each given those before it, nats
    generate(tokens, count) -> list[int]                the likeliest next token, `count` times, past any end of text
    time(batch, prompt_tokens, new_tokens) -> (s, s)    seconds to the first token, and per token after it

OPTIONS is JSON: ``threads`` (null for the runtime's own choice), ``device`` (``cpu``, ``cuda`` ...), ``dtype``
(``float32`` ...) and ``trust_remote_code`` (whether Python code beside the model may run).

Requests are lines of JSON, ``{"call": NAME, "arguments": [...]}``. So are answers: ``{"value": ...}``,
``{"missing": PACKAGE}`` or ``{"error": ...}``. It needs the standard library alone.
"""

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Load the model, say so, and answer."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # runtimes, and what they start, read no requests
    os.dup2(2, 1)  # what runtimes print is no answer
    here = Path(__file__).resolve().parent  # whose files are no modules that runtimes import
    sys.path[:] = [folder for folder in sys.path if not folder or Path(folder).resolve() != here]

    def answer(**contents: object) -> None:
        answers.write(json.dumps(contents) + "\n")
        answers.flush()

    file, path, options = sys.argv[1:4]
    spec = importlib.util.spec_from_file_location("runner", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look types up there
    try:
        spec.loader.exec_module(module)
        model = module.Model(path, json.loads(options))
    except Exception as error:  # of any kind: it is the caller who says what it means
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        answer(**({"missing": missing} if missing else {"error": traceback.format_exc()}))
        return
    answer(value=model.runtime)
    for line in requests:
        request = json.loads(line)
        try:
            answer(value=getattr(model, request["call"])(*request["arguments"]))
        except Exception:
            answer(error=traceback.format_exc())


if __name__ == "__main__":
    main()
