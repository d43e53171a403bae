"""How fast models are beside the dense one, in the runtimes that serve them: one timing for all of them."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from bonsai_core.contracts import Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.turns import WARM_UP, speed, speedup, take_turns
from bonsai_core.model.loading.saved import has_own_code
from bonsai_core.model.storage.devices import find_device
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.versions import versions
from bonsai_core.runtimes.bench_config import BenchConfig, RuntimeChoice
from bonsai_core.runtimes.bench_models import dense_of, dtype_of, written
from bonsai_core.runtimes.formats import find_exporter, format_for
from bonsai_core.runtimes.runner import MissingRuntimeError, RunningModel, running

Progress = Callable[[str, float], None]
"""Is told what is being done, and which share of all timing is done, 0..1."""


def bench(
    config: BenchConfig,
    *,
    registry: Registry | None = None,
    warn: Callable[[str], None] = warnings.warn,
    progress: Progress = lambda what, share: None,
) -> dict[str, Any]:
    """Time models and the dense one in runtimes.

    In each runtime every model is exported, and loaded in a process of its own. They take turns, so that a machine
    whose speed changes is fair to all; what cannot be timed is told of, and the rest goes on.

    Returns:
        ``results``, for each runtime, batch and length of prompts: ``runtime`` (with its version), ``format``,
        ``batch``, ``prompt_tokens`` and ``models``, the dense one first, with what `speed` says of each, and for the
        others ``speedup``, see there. ``notes``: what could not be timed. The settings, ``device``, ``dtype``,
        ``cores``, ``load`` (running processes, before the first timing) and ``versions`` beside them.

    Raises:
        BonsaiError: there is no such model, runtime or device, or nothing could be timed.
    """
    registry = registry or Registry()
    formats = [_format(choice, registry) for choice in config.runtimes]
    dense = config.against or dense_of(config.models[0])
    names = [dense, *(name for name in dict.fromkeys(config.models) if name != dense)]
    if len(names) < 2:
        raise BonsaiError(f"{dense} is the dense model itself. Name a pruned one too.")
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)
            warn(text)

    device, dtype = str(find_device(config.device)), dtype_of(config, dense)
    cores, load = os.cpu_count() or 1, psutil.getloadavg()[0]
    if load > cores / 2:
        note(f"The machine is, or just was, busy (load {load:.1f} on {cores} cores): other work makes times vary.")
    results: list[dict[str, Any]] = []
    for number, (choice, format_) in enumerate(zip(config.runtimes, formats, strict=True)):
        share = _Share(progress, number, len(formats), config, len(names))
        exporter = find_exporter(format_, registry)
        with tempfile.TemporaryDirectory(prefix="bonsai-bench-") as folder, ExitStack() as stack:
            loaded: dict[str, RunningModel] = {}
            for index, name in enumerate(names):
                share.tell(f"{choice}: loading {name}")
                try:
                    path = written(name, format_, exporter, Path(folder) / str(index), config, registry, note)
                    process = running(
                        _runner(exporter),
                        path,
                        python=choice.python,
                        threads=config.threads,
                        device=device,
                        dtype=dtype,
                        trust_remote_code=config.trust_remote_code or has_own_code(path),
                    )
                    loaded[name] = stack.enter_context(process)
                except MissingRuntimeError as error:
                    note(
                        f"Nothing is timed in {exporter.runtime}: {error} Where it is, name the interpreter: --runtime "
                        f"{choice}=/path/of/env/bin/python."
                    )
                    break
                except BonsaiError as error:
                    note(f"{name} is not timed in {exporter.runtime}: {error}")
                    if name == dense:
                        break
            if len(loaded) > 1:
                results += _timed(loaded, format_, config, share, note)
    if not results:
        raise BonsaiError("\n".join(["Nothing could be timed.", *notes]))
    settings = config.model_dump(mode="json", exclude={"models", "against", "device", "dtype", "trust_remote_code"})
    described = {"device": device, "dtype": dtype, "cores": cores, "load": load, "versions": versions()}
    return {"dense": dense, "results": results, "notes": notes, "settings": settings, **described}


def _timed(
    loaded: Mapping[str, RunningModel], format_: str, config: BenchConfig, share: _Share, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A row for each batch and length of prompts, of models of which the first is the dense one."""
    rows = []
    for batch, tokens in itertools.product(config.batches, config.prompt_tokens):

        def side(name: str, batch: int = batch, tokens: int = tokens) -> Callable[[int], tuple[float, float]]:
            def once(turn: int) -> tuple[float, float]:
                share.tell(f"{loaded[name].runtime}: {batch} x {tokens} tokens")
                seconds = loaded[name].time(batch, tokens, config.new_tokens)
                share.advance(batch, tokens)
                return seconds

            return once

        try:
            seconds_SRP = take_turns([side(name) for name in loaded], config.repeats)
        except BonsaiError as error:
            note(f"{batch} x {tokens} tokens are not timed: {error}")
            continue
        runtime = next(iter(loaded.values())).runtime
        if not (seconds_SRP > 0).all():
            note(f"{batch} x {tokens} tokens in {runtime}: times that are not positive are left out.")
            continue
        models = [
            {"model": name, "dense": not index, **speed(seconds_SRP[index], batch, tokens)}
            | ({"speedup": speedup(seconds_SRP[0], seconds_SRP[index])} if index else {})
            for index, name in enumerate(loaded)
        ]
        what = {"runtime": runtime, "format": format_, "batch": batch, "prompt_tokens": tokens}
        rows.append({**what, "models": models})
    return rows


class _Share:
    """Tells which share of all timing is done; a runtime counts as much as any other, whatever of it is left out."""

    def __init__(self, progress: Progress, number: int, runtimes: int, config: BenchConfig, models: int) -> None:
        self._progress, self._number, self._runtimes, self._new = progress, number, runtimes, config.new_tokens
        each = sum(self._work(*what) for what in itertools.product(config.batches, config.prompt_tokens))
        self._total, self._done = each * models * (WARM_UP + config.repeats), 0

    def tell(self, what: str) -> None:
        self._progress(what, (self._number + self._done / self._total) / self._runtimes)

    def advance(self, batch: int, tokens: int) -> None:
        self._done += self._work(batch, tokens)

    def _work(self, batch: int, tokens: int) -> int:
        return batch * (tokens + self._new)


def _format(choice: RuntimeChoice, registry: Registry) -> str:
    """The format for a runtime, with its variant.

    Raises:
        BonsaiError: there is none, or nothing that could time it.
    """
    format_ = format_for(str(choice), registry)
    if find_exporter(format_, registry).runner is None:
        raise BonsaiError(f"Nothing loads the format {format_} by itself, so it cannot be timed.")
    return format_


def _runner(exporter: Exporter) -> Path:
    assert exporter.runner is not None  # see `_format`
    return exporter.runner
