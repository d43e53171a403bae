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
        what = f"{self.runtime} cannot {name.replace('_', ' ')}"
        return _asked(self._process, self._log, what, name, *arguments)


@dataclass(frozen=True)
class StartedRuntime:
    """A process whose runtime is installed, and that has loaded no model yet."""

    _process: subprocess.Popen[str]
    _log: IO[str]

    def load(
        self,
        model: Path,
        *,
        threads: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> RunningModel:
        """Load a model, once.

        Args:
            threads: of the CPU; None for the runtime's own choice.
            dtype: of weights and computations, where the runtime can choose it.
            trust_remote_code: whether Python code beside the model may run.

        Raises:
            MissingRuntimeError: a package is missing there.
            BonsaiError: it cannot be loaded; the message holds the runtime's own words.
        """
        options = {"threads": threads, "device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
        what = f"{model} cannot be loaded"
        return RunningModel(
            _asked(self._process, self._log, what, "load", str(model), options), self._process, self._log
        )


@contextmanager
def starting(runner: Path, *, python: str | None = None) -> Iterator[StartedRuntime]:
    """A runtime in a process of its own, which ends with the block, and with it all processes that it has started.

    Args:
        runner: the Python file that loads models there, see `bonsai_core.runtimes.serve`.
        python: the interpreter of the environment that has the runtime; None for this one's.

    Raises:
        MissingRuntimeError: a package is missing there.
        BonsaiError: it cannot be started; the message holds its own words.
    """
    if python is not None and python.startswith("~"):  # no shell has seen to that in --runtime vllm=~/env/bin/python
        python = str(user_path(python))
    command = [python or sys.executable, serve.__file__, str(runner)]
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
            _answer(process, log, f"{runner.name} cannot be started")
            yield StartedRuntime(process, log)
        finally:
            _end(process)


@contextmanager
def running(runner: Path, model: Path, *, python: str | None = None, **options: Any) -> Iterator[RunningModel]:
    """A model that is loaded in a process of its own: `starting`, and `StartedRuntime.load` with its options."""
    with starting(runner, python=python) as runtime:
        yield runtime.load(model, **options)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, and those that it has started."""
    with suppress(psutil.NoSuchProcess):
        for started in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                started.kill()
    process.kill()
    with suppress(OSError), process:  # what it has not read cannot be sent any more
        pass


def _asked(process: subprocess.Popen[str], log: IO[str], what: str, call: str, *arguments: Any) -> Any:
    """The answer to a request; `what` says what failed if there is none."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
        process.stdin.flush()
    except OSError:  # a broken pipe, by the name of the operating system
        raise BonsaiError(f"{what}: the process had ended before it was asked.") from None
    return _answer(process, log, what)


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
