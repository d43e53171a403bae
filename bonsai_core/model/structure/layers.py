"""The decoder layers of a dense model, and the linears of theirs that sites give their output through."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bonsai_core.units import Site


@dataclass(frozen=True)
class DecoderLayer:
    """A decoder layer.

    Attributes:
        number: its number in the dense model, from 0; it keeps it when other layers leave.
    """

    number: int
    module: nn.Module


@dataclass(frozen=True)
class OutputProjection:
    """The linear whose input channels are those of a site's units.

    Attributes:
        path: its name, relative to the decoder layer.
    """

    site: Site
    layer: DecoderLayer
    path: str

    @property
    def linear(self) -> nn.Linear:
        """The linear as it is now: slicing replaces it."""
        linear = self.layer.module.get_submodule(self.path)
        assert isinstance(linear, nn.Linear)
        return linear
