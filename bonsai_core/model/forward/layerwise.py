"""Forward passes layer by layer: all the text goes through one layer before any of it reaches the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.storage.devices import input_device
from bonsai_core.upstream import map_tensors

MASK_DIMENSIONS = 4
Call = tuple[tuple[Any, ...], dict[str, Any]]


class LayerByLayer:
    """Hidden states of some windows on their way through the decoder layers.

    Results of one layer need memory for that layer only, at the price of the hidden states of all windows: tokens x
    hidden size, in the model's type. Layers get the arguments that the model itself passes to them, recorded once on a
    single window.

    Args:
        passes: forward passes over the model; their batch size is used, and shrunk when memory runs out.
        windows_NT: int64 [windows, sequence].
    """

    def __init__(self, passes: Passes, layers: Sequence[nn.Module], windows_NT: NDArray[np.int64]) -> None:
        self._passes = passes
        self._layers = layers
        self._calls = _record_calls(passes, layers, windows_NT[:1])
        self._hidden_NTH = _first_inputs(passes, layers[0], windows_NT)

    def advance(self, index: int, after_batch: Callable[[Tensor], None]) -> None:
        """Put all windows through layer `index`; layers must be taken in order.

        Args:
            after_batch: receives the hidden states that left the layer, [windows, sequence, hidden], of every batch
                that did not run out of memory.
        """
        args, kwargs = self._calls[index]

        def run(rows: slice) -> Tensor:
            hidden_NTH = self._hidden_NTH[rows]
            positional, named = map_tensors(lambda value: _for_batch(value, len(hidden_NTH)), (args, kwargs))
            output = self._layers[index](hidden_NTH, *positional, **named)
            hidden: Tensor = output[0] if isinstance(output, tuple) else output
            return hidden

        tokens, layers = self._hidden_NTH.shape[1], len(self._layers)
        for rows, hidden in self._passes.in_batches(len(self._hidden_NTH), run):
            self._hidden_NTH[rows] = hidden
            after_batch(hidden)
            # A layer counts as its share of a pass; over all layers, whole tokens add up.
            share = tokens * len(hidden)
            self._passes.count(share * (index + 1) // layers - share * index // layers)


class _ReachedError(Exception):
    """The first layer has been reached; the rest of the pass is not needed."""


def _first_inputs(passes: Passes, first: nn.Module, windows_NT: NDArray[np.int64]) -> Tensor:
    """The hidden states that enter the first layer, [windows, sequence, hidden]."""
    reached: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(_split(args, kwargs)[0])
        raise _ReachedError

    def embed(rows: slice) -> Tensor:
        try:
            _forward(passes, windows_NT[rows])
        except _ReachedError:
            return reached.pop()
        raise AssertionError("the model does not call its first decoder layer")

    with first.register_forward_pre_hook(stop, with_kwargs=True):
        whole: Tensor | None = None
        for rows, hidden in passes.in_batches(len(windows_NT), embed):
            whole = hidden.new_empty(len(windows_NT), *hidden.shape[1:]) if whole is None else whole
            whole[rows] = hidden
    assert whole is not None  # there is a window
    return whole


def _record_calls(passes: Passes, layers: Sequence[nn.Module], window_NT: NDArray[np.int64]) -> list[Call]:
    """The arguments of every layer besides the hidden states, for a batch of one window: all of them broadcast."""
    calls: list[Call] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(_split(args, kwargs)[1])

    with ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(record, with_kwargs=True))
        _forward(passes, window_NT)
    return calls


def _for_batch(value: Any, size: int) -> Any:
    """The attention mask of one window, expanded to a batch: some layers (XGLM) check its size."""
    is_mask = isinstance(value, Tensor) and value.ndim == MASK_DIMENSIONS and len(value) == 1
    return value.expand(size, *value.shape[1:]) if is_mask else value


def _forward(passes: Passes, windows_NT: NDArray[np.int64]) -> None:
    ids = torch.from_numpy(windows_NT).to(input_device(passes.model))
    passes.model.base_model(input_ids=ids, use_cache=False)


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The hidden states of a layer's call, and the rest of it."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["hidden_states"], ((), {name: value for name, value in kwargs.items() if name != "hidden_states"})
