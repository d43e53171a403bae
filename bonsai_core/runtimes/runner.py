"""A model that a runtime has loaded in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.runtimes import serve
from bonsai_core.sources import user_path

LONGEST_LOG = 4_000
"""Characters of what a process printed that an error repeats, from the end."""


class MissingRuntimeError(BonsaiError):
    """The runtime is not installed where it was looked for."""


@dataclass(frozen=True)
class RunningModel:
    """What `bonsai_core.runtimes.serve` answers; the methods are those of its runner.

    Attributes:
        runtime: what runs it, with its version.
    """

    runtime: str
    _process: subprocess.Popen[str]
    _log: IO[str]

    def log_probabilities(self, tokens: Sequence[int]) -> list[float]:
        """Of tokens[1:], each given those before it, nats."""
        return [float(value) for value in self._call("log_probabilities", list(tokens))]

    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        """The likeliest next token, `count` times."""
        return [int(value) for value in self._call("generate", list(tokens), count)]

    def time(self, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and per token of each sequence after it."""
        prefill_s, decode_s = self._call("time", batch, prompt_tokens, new_tokens)
        return float(prefill_s), float(decode_s)

    def _call(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:  # a broken pipe, by the name of the operating system
            raise BonsaiError(f"{self.runtime} ended before it was asked to {name}.") from None
        return _answer(self._process, self._log, f"{self.runtime} cannot {name.replace('_', ' ')}")


@contextmanager
def running(
    runner: Path,
    model: Path,
    *,
    python: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Iterator[RunningModel]:
    """A model in a process of its own, which ends with the block, and with it all processes that it has started.

    Args:
        runner: the Python file that loads it, see `bonsai_core.runtimes.serve`.
        model: what it loads.
        python: the interpreter of the environment that has the runtime; None for this one's.
        threads: of the CPU; None for the runtime's own choice.
        dtype: of weights and computations, where the runtime can choose it.
        trust_remote_code: whether Python code beside the model may run.

    Raises:
        MissingRuntimeError: a package is missing there.
        BonsaiError: it cannot be started, or cannot load the model; the message holds its own words.
    """
    options = json.dumps({"threads": threads, "device": device, "dtype": dtype, "trust_remote_code": trust_remote_code})
    if python is not None and python.startswith("~"):  # no shell has seen to that in --runtime vllm=~/env/bin/python
        python = str(user_path(python))
    command = [python or sys.executable, serve.__file__, str(runner), str(model), options]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
            )
        except OSError as error:
            raise BonsaiError(
                f"{command[0]} cannot be started: {error.strerror}. Give the Python interpreter of the environment "
                f"that has the runtime."
            ) from None
        try:
            yield RunningModel(_answer(process, log, f"{model} cannot be loaded"), process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, and those that it has started."""
    with suppress(psutil.NoSuchProcess):
        for started in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                started.kill()
    process.kill()
    with suppress(OSError), process:  # what it has not read cannot be sent any more
        pass


def _answer(process: subprocess.Popen[str], log: IO[str], what: str) -> Any:
    """The next answer; `what` says what failed if there is none, and `log` has what the process printed."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        status = process.wait()
        log.seek(0)
        raise BonsaiError(f"{what}: the process ended with status {status}.\n{log.read()[-LONGEST_LOG:]}")
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BonsaiError(
            f"{what}: the process answers {shortened(line)!r}. Give the Python interpreter itself, not a program that "
            f"starts it and prints something."
        )
    if "missing" in answer:
        raise MissingRuntimeError(f"The Python package {answer['missing']} is not installed there.")
    if "error" in answer:
        raise BonsaiError(f"{what}:\n{answer['error']}")
    return answer["value"]
