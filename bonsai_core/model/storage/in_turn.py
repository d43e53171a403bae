"""Sources of a layer's weights: in place, on the CPU, or in files; at most two layers of them are held."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from torch import nn

from bonsai_core.model.storage.expert_rows import fetched_by_expert, names_by_expert
from bonsai_core.model.storage.incoming import Fetches, Incoming
from bonsai_core.model.storage.offloaded import own_weights
from bonsai_core.upstream import is_offloaded, set_offloaded


def in_turn(
    layers: Mapping[int, nn.Module], fetches: Fetches | None = None
) -> Generator[tuple[int, nn.Module], None, None]:
    """The decoder layers consecutively, each with its weights on the device that runs it while it is the current one.

    Layers that have their weights are passed on as they are. Weights that accelerate has offloaded are fetched once,
    however often the layer is called, and the layer's modules do not count as offloaded while it is the current one.
    Meanwhile the weights of the next such layer are fetched in another thread, which ends with the iterator. Experts
    of a mixture are fetched when a token is first sent to them.

    Close the iterator (`contextlib.closing`), so that an exception in the loop leaves no weights behind.

    Args:
        layers: by their numbers, in order.
        fetches: is added to.

    Yields:
        (number, layer); the layer before has released its weights.

    Raises:
        BonsaiError: the weights of the layer that is next cannot be read.
    """
    counted = Fetches() if fetches is None else fetches
    offloaded = {number: [one for one in layer.modules() if is_offloaded(one)] for number, layer in layers.items()}
    thread = ThreadPoolExecutor(1, "weights")
    try:
        arriving = _arriving(thread, filter(None, offloaded.values()))
        for number, layer in layers.items():
            with ExitStack() as stack:
                if offloaded[number]:
                    stack.enter_context(next(arriving).in_place(counted))
                yield number, layer
    finally:
        thread.shutdown(cancel_futures=True)


def _arriving(thread: ThreadPoolExecutor, layers: Iterable[Sequence[nn.Module]]) -> Iterator[_Layer]:
    """The weights of each layer once they are there, while those of the next are on their way."""
    before: Future[_Layer] | None = None
    for modules in layers:
        coming = thread.submit(_Layer(modules).fetch)
        if before is not None:
            yield before.result()
        before = coming
    if before is not None:
        yield before.result()


class _Layer:
    """The offloaded modules of one layer."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._by_expert = {module: names_by_expert(module) for module in modules}
        self._weights = [
            Incoming(module, name)
            for module in modules
            for name, _ in own_weights(module)
            if name not in self._by_expert[module]
        ]

    def fetch(self) -> _Layer:
        """Bring all weights but those of single experts."""
        for weight in self._weights:
            weight.fetch()
        return self

    @contextmanager
    def in_place(self, fetches: Fetches) -> Iterator[None]:
        """The modules have their weights."""
        fetches.num_layers += 1
        with ExitStack() as stack:
            for module, names in self._by_expert.items():
                if names:
                    stack.enter_context(fetched_by_expert(module, names, fetches))
            for weight in self._weights:
                stack.enter_context(weight.in_place(fetches))
            for module in self._modules:
                stack.callback(set_offloaded, module, True)
                set_offloaded(module, False)
            yield
