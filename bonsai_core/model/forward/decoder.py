"""A causal LM taken apart at its decoder layers, whatever its family: what enters, calls and leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, starmap
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.errors import BonsaiError
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.structure.replaced import forward_replaced
from bonsai_core.upstream import map_tensors, tensors_in

MASK_DIMENSIONS = 4
HIDDEN_DIMENSIONS = 3
FEW_WINDOWS, FEW_TOKENS = 2, 2
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Decoder:
    """Runs the decoder layers of a model one at a time, with what the model itself passes to them.

    Between two layers there must be nothing but the hidden states. The model's own forward pass gives all else, with
    other functions in the place of its layers: the embeddings, the arguments of each layer, which depend on the number
    of tokens alone, and what follows the last layer.

    Args:
        layers: gives the layers that the model has now, by number.
    """

    def __init__(self, model: CausalLM, layers: Callable[[], Mapping[int, nn.Module]]) -> None:
        self._model = model
        self._layers = layers
        self._rest: dict[int, tuple[Any, ...] | None] = {}
        self._calls: dict[tuple[int, int], Call] = {}

    def embedded(self, ids_NT: Tensor) -> Tensor:
        """The hidden states that enter the first layer, [windows, sequence, hidden]."""
        self._learn_outputs()
        reached: list[Tensor] = []

        def stop(number: int, hidden: Tensor, call: Call) -> Tensor:
            reached.append(hidden)
            raise _ReachedError

        with self._instead(stop):
            try:
                self._forward(ids_NT)
            except _ReachedError:
                return reached.pop()
        raise AssertionError("the model does not call its first decoder layer")

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        """The hidden states that leave a layer, [windows, sequence, hidden], from those that enter it."""
        key = (number, hidden.shape[1])
        if key not in self._calls:
            self._learn_outputs()
            self._record_calls(hidden.shape[1])
        args, kwargs = map_tensors(lambda value: _for_batch(value, len(hidden)), self._calls[key])
        output = self._layers()[number](hidden, *args, **kwargs)
        left: Tensor = output[0] if isinstance(output, tuple) else output
        return left

    def last_hidden(self, hidden: Tensor) -> Tensor:
        """What the head reads, [windows, sequence, hidden], from the hidden states that left the last layer."""
        last = list(self._layers())[-1]
        ids_NT = torch.zeros(hidden.shape[:2], dtype=torch.long)
        with self._instead(lambda number, before, call: hidden if number == last else before):
            return self._forward(ids_NT)

    def _record_calls(self, num_tokens: int) -> None:
        """The arguments of every layer besides the hidden states, for a batch of one window: all of them broadcast."""

        def record(number: int, hidden: Tensor, call: Call) -> Tensor:
            self._calls[number, num_tokens] = call
            return hidden

        with self._instead(record):
            self._forward(torch.zeros((1, num_tokens), dtype=torch.long))

    def _learn_outputs(self) -> None:
        """Whether layers return the hidden states alone or in a tuple, and with what, from a pass over a few tokens.

        Raises:
            BonsaiError: layer by layer, the model computes something else than as a whole.
        """
        if self._rest:
            return
        try:
            same = self._is_taken_apart()
        except BaseException:
            self._rest.clear()
            raise
        if not same:
            self._rest.clear()
            raise BonsaiError(
                f"Between the decoder layers of this model ({type(self._model).__name__}) there is more than hidden "
                f"states, so it cannot be measured layer by layer, as Bonsai does."
            )

    def _is_taken_apart(self) -> bool:
        """Whether a pass of the whole model does nothing but what its parts are thought to do; outputs are learnt."""
        entered: list[Tensor] = []
        left: list[Tensor] = []
        given: dict[int, Call] = {}

        def learn(number: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            hidden, given[number] = _split(args, kwargs)
            entered.append(hidden)
            left.append(output[0] if isinstance(output, tuple) else output)
            self._rest[number] = output[1:] if isinstance(output, tuple) else None

        with ExitStack() as hooks:
            for number, layer in self._layers().items():
                hooks.enter_context(layer.register_forward_hook(partial(learn, number), with_kwargs=True))
            whole = self._forward(torch.arange(FEW_WINDOWS * FEW_TOKENS).view(FEW_WINDOWS, FEW_TOKENS))
        if whole.ndim != HIDDEN_DIMENSIONS or any(hidden.shape != whole.shape for hidden in (*entered, *left)):
            return False
        self._record_calls(FEW_TOKENS)
        recorded = {number: self._calls[number, FEW_TOKENS] for number in given}
        pairs = chain(
            zip(entered[1:], left[:-1], strict=True),
            zip(tensors_in(given), tensors_in(recorded), strict=True),
            [(whole, self.last_hidden(left[-1]))],
        )
        return all(starmap(_same, pairs))

    @contextmanager
    def _instead(self, function: Callable[[int, Tensor, Call], Tensor]) -> Iterator[None]:
        """`function(number, hidden states, other arguments)` instead of each layer; no trace stays."""

        def stand_in(number: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden, call = _split(args, kwargs)
                after, rest = function(number, hidden, call), self._rest.get(number)
                return after if rest is None else (after, *rest)

            return forward

        with ExitStack() as stack:
            for number, layer in self._layers().items():
                stack.enter_context(forward_replaced(layer, stand_in(number)))
            yield

    def _forward(self, ids_NT: Tensor) -> Tensor:
        with torch.inference_mode():
            output = self._model.base_model(input_ids=ids_NT.to(input_device(self._model)), use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden


class _ReachedError(Exception):
    """The first layer has been reached; the rest of the pass is not needed."""


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, where the other may be for a single window."""
    if one.ndim != other.ndim or any(n not in (m, 1) for m, n in zip(one.shape, other.shape, strict=True)):
        return False
    return torch.allclose(one, other.to(one.device).expand_as(one), rtol=0, atol=0, equal_nan=True)


def _for_batch(value: Any, size: int) -> Any:
    """The attention mask of one window, expanded to a batch: some layers (XGLM) check its size."""
    is_mask = isinstance(value, Tensor) and value.ndim == MASK_DIMENSIONS and len(value) == 1
    return value.expand(size, *value.shape[1:]) if is_mask else value


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The hidden states of a layer's call, and the rest of it."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["hidden_states"], ((), {name: value for name, value in kwargs.items() if name != "hidden_states"})
