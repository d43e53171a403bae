"""In lockstep: all sub-models, with all their text, go through one decoder layer before any reaches the next.

A lane is some windows under one keep vector. The weights of a layer are needed once for all lanes, and what is found
at one layer, such as second moments and repairs, is used there and dropped. In memory are the hidden states: lanes x
windows x tokens x hidden size numbers, in the model's type.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.chunks import Chunks, out_of_memory
from bonsai_core.model.forward.decoder import Decoder
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.predictions import LastHidden, Predictions
from bonsai_core.model.storage.in_turn import in_turn
from bonsai_core.model.storage.incoming import Fetches
from bonsai_core.model.subject import Subject
from bonsai_core.upstream import is_offloaded

BATCH_TOKENS = 65_536
AfterChunk = Callable[[Tensor, Tensor], None]
"""Receives the hidden states that entered a layer and those that left it, [windows, sequence, hidden]."""


class Stream:
    """Windows of one length on their way through the layers, the same ones in each lane.

    Args:
        ids_NT: the windows' tokens, int64 [windows, sequence].
        hidden_NTH: the hidden states of all lanes, one lane after the other, [lanes * windows, sequence, hidden].
        lengths_N: tokens of each window without padding; None if there is none.
        counted: whether its tokens count as work done.
    """

    def __init__(
        self,
        ids_NT: NDArray[np.int64],
        hidden_NTH: Tensor,
        lengths_N: NDArray[np.int64] | None = None,
        *,
        counted: bool = True,
    ) -> None:
        self.ids_NT = ids_NT
        self.hidden_NTH = hidden_NTH
        self.num_lanes = len(hidden_NTH) // len(ids_NT)
        self.lane_N = np.repeat(np.arange(self.num_lanes), len(ids_NT))
        self._tokens_N = np.full(len(ids_NT), ids_NT.shape[1]) if lengths_N is None else lengths_N
        self._counted = counted

    def share(self, rows: slice, layer: int, num_layers: int) -> int:
        """Tokens of some rows that count for one layer; over all layers, each row's tokens add up."""
        if not self._counted:
            return 0
        tokens_n = np.tile(self._tokens_N, self.num_lanes)[rows]
        return int((tokens_n * (layer + 1) // num_layers - tokens_n * layer // num_layers).sum())


class Lockstep:
    """The decoder layers of a model under pruning, one at a time, for any number of lanes.

    Args:
        chunks: of the rows that one call of a layer takes.
        batch_tokens: of all lanes that go through the layers together, about.

    Attributes:
        chunk_tokens: of a chunk as it was meant, before memory ran out.
        fetches: of weights that are not where they are used.
    """

    def __init__(self, subject: Subject, chunks: Chunks, batch_tokens: int | None = None) -> None:
        self.subject = subject
        self.chunks = chunks
        self.chunk_tokens = chunks.tokens
        self.batch_tokens = batch_tokens or BATCH_TOKENS
        self.fetches = Fetches()
        self._decoder = Decoder(subject.model, subject.layers_present)

    def stream(
        self,
        ids_NT: NDArray[np.int64],
        lanes: int = 1,
        lengths_N: NDArray[np.int64] | None = None,
        *,
        counted: bool = True,
    ) -> Stream:
        """Windows in front of the first layer, in a number of lanes; see `Stream`."""
        whole: Tensor | None = None
        num_windows = len(ids_NT)
        ids = torch.from_numpy(ids_NT)
        for rows, hidden in self.chunks.run(
            len(ids_NT), ids_NT.shape[1], lambda rows: self._decoder.embedded(ids[rows])
        ):
            if whole is None:
                whole = _room_for(lanes, num_windows, hidden)
            whole[:, rows] = hidden
        assert whole is not None  # there is a window
        return Stream(ids_NT, whole.flatten(0, 1), lengths_N, counted=counted)

    def set_sizes(self, chunk_tokens: int, batch_tokens: int) -> None:
        """Change the tokens of a chunk and of all lanes together."""
        self.chunks.tokens = self.chunk_tokens = chunk_tokens
        self.batch_tokens = batch_tokens

    def windows_in_chunk(self, length: int) -> int:
        """Windows of this many tokens in one chunk, as it was meant."""
        return max(1, self.chunk_tokens // length)

    def sweep(self, visit: Callable[[int], None]) -> None:
        """Visit the layers by their numbers, in order, each with its weights at hand while it is its turn."""
        with closing(self.turns()) as turns:
            for number in turns:
                visit(number)

    def turns(self) -> Generator[int, None, None]:
        """The layers' numbers, in order, each while its weights are at hand; close it (`contextlib.closing`)."""
        with closing(in_turn(self.subject.layers_present(), self.fetches)) as turns:
            for number, _ in turns:
                yield number

    @contextmanager
    def after_the_layers(self) -> Iterator[None]:
        """While predictions are read: what is not in a layer, such as the head, has its weights at hand."""
        inside = {id(module) for layer in self.subject.layers_present().values() for module in layer.modules()}
        rest = [module for module in self.subject.model.modules() if id(module) not in inside and is_offloaded(module)]
        with closing(in_turn({0: nn.ModuleList(rest)})) as turns:
            next(turns)
            yield

    def advance(
        self,
        number: int,
        stream: Stream,
        lanes: LayerLanes,
        after: AfterChunk | None = None,
        *,
        only_look: bool = False,
    ) -> None:
        """Put a stream through a layer; in the sweep that visits it.

        Args:
            after: receives the hidden states of every chunk that did not run out of memory.
            only_look: the stream stays in front of the layer.
        """
        hidden_NTH, lane_N = stream.hidden_NTH, stream.lane_N

        def run(rows: slice) -> Tensor:
            before, lanes_n = hidden_NTH[rows], lane_N[rows]
            left = before
            for call in lanes.calls(lanes_n):
                if len(call) == len(before):
                    with lanes.computing(lanes_n):
                        return self._decoder.layer(number, before)
                index = torch.from_numpy(call).to(before.device)
                with lanes.computing(lanes_n[call]):
                    some = self._decoder.layer(number, before[index]).to(before.device)
                left = left.clone() if left is before else left
                left[index] = some
            return left

        for rows, left in self.chunks.run(len(hidden_NTH), hidden_NTH.shape[1], run):
            hidden = left.to(hidden_NTH.device)  # layers may be on several
            if after is not None:
                after(hidden_NTH[rows], hidden)
            if not only_look:
                hidden_NTH[rows] = hidden
            self._count(number, stream, rows)

    def skip(self, number: int, stream: Stream) -> None:
        """Count a stream's tokens at a layer that it need not go through."""
        self._count(number, stream, slice(None))

    def _count(self, number: int, stream: Stream, rows: slice) -> None:
        layers = list(self.subject.layers_present())
        self.chunks.count(stream.share(rows, layers.index(number), len(layers)))

    def last_hidden(self, stream: Stream, lane: int = 0) -> LastHidden:
        """What the head reads of one lane, once its stream has left the last layer."""
        of_lane = stream.hidden_NTH[lane * len(stream.ids_NT) :][: len(stream.ids_NT)]
        for rows, hidden in self.chunks.run(
            len(of_lane), of_lane.shape[1], lambda rows: self._decoder.last_hidden(of_lane[rows])
        ):
            yield rows.start, hidden

    def predictions(self, streams: list[Stream], lane: int = 0) -> Predictions:
        """The predictions of one lane for the windows of streams that have left the last layer."""
        by_ids = {id(stream.ids_NT): stream for stream in streams}
        return Predictions(self.subject.model, lambda ids_NT, lengths_N: self.last_hidden(by_ids[id(ids_NT)], lane))

    def predictions_of(self, keep_U: NDArray[np.bool_]) -> Predictions:
        """The predictions for any windows under one keep vector, without repairs."""

        def last_hidden(ids_NT: NDArray[np.int64], lengths_N: NDArray[np.int64] | None) -> LastHidden:
            in_chunk = self.windows_in_chunk(ids_NT.shape[1])  # chunks do not straddle batches
            batch = max(1, self.batch_tokens // ids_NT.shape[1] // in_chunk) * in_chunk
            for start in range(0, len(ids_NT), batch):
                stream = self.stream(ids_NT[start : start + batch])
                self.sweep(partial(self._pass, stream, keep_U[None]))
                with self.after_the_layers():
                    yield from ((start + first, hidden) for first, hidden in self.last_hidden(stream))

        return Predictions(self.subject.model, last_hidden)

    def _pass(self, stream: Stream, keep_LU: NDArray[np.bool_], number: int) -> None:
        self.advance(number, stream, LayerLanes.of(self.subject, number, keep_LU, None))


def _room_for(lanes: int, num_windows: int, hidden: Tensor) -> Tensor:
    """For the hidden states of all lanes, [lanes, windows, sequence, hidden]."""
    try:
        return hidden.new_empty(lanes, num_windows, *hidden.shape[1:])
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise BonsaiError(
            f"The hidden states of {lanes} x {num_windows} windows do not fit into the device's memory. Use a smaller "
            f"--batch-tokens, fewer --prior-samples, or a smaller --dtype. ({str(error).splitlines()[0]})"
        ) from error
