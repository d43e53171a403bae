"""A pruned model as slices of its base, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.checkpoint import empty_model
from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.pruned_files import PrunedFiles
from bonsai_core.model.sites.table import unit_table
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.subject import Subject
from bonsai_core.units import UnitKind, UnitTable


@dataclass(frozen=True)
class Cut:
    """How a base is sliced.

    Attributes:
        units: as for `unit_table`.
        kept: for each site by its name, the numbers of the units that stay, int64.
        added_biases: whether all output projections get a bias.
        dtype: of the pruned model.
    """

    units: Sequence[UnitKind]
    kept: Mapping[str, NDArray[np.int64]]
    shapes: Literal["free", "uniform"]
    added_biases: bool
    dtype: torch.dtype


class SlicedBase:
    """What slicing a base leaves, without repairs.

    Args:
        dense: the base without memory, as `empty_stock` makes it.
        files: its weights.
        family: how it is built.
        cut: how it is sliced.

    Attributes:
        model: the pruned model without memory, as `empty_model` makes it.

    Raises:
        BonsaiError: the base has other units, or cannot be sliced so.
    """

    def __init__(self, dense: Any, files: WeightFiles, family: Family, cut: Cut) -> None:
        self._table = table = unit_table(dense, family, cut.units)
        subject = Subject(dense, family, table=table, storage=Elsewhere(dense, family, files))
        self._keep_U = keep_U = _keep_vector(table, cut.kept)
        self._pieces, self._dtype = PrunedFiles(subject, files, keep_U), cut.dtype
        self._pieces.config.dtype = cut.dtype
        self.model = empty_model(
            self._pieces.config,
            stock_class(type(dense)),
            family,
            subject.layer_sizes(keep_U),
            cut.shapes,
            subject.output_paths() if cut.added_biases else (),
            None,  # the settings of generation are the base's own file
        )

    def tensor_of(self, name: str) -> Tensor | None:
        """The slice that goes under a name of the pruned model; None where there is none."""
        tensor = self._pieces.tensor_of(name)
        return None if tensor is None else tensor.to(self._dtype)

    def keeps(self) -> dict[str, NDArray[np.bool_]]:
        """For each site, the units that stay, bool [units]."""
        return {site.name: self._keep_U[site.units] for site in self._table}

    def names(self) -> list[str]:
        """Of all tensors of the pruned model, in its order; a weight with two names has the first."""
        stored = self.model.state_dict()
        named: dict[str, Any] = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        return [name for name in named if name in stored]


def _keep_vector(table: UnitTable, kept: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """The units that stay, bool [U].

    Raises:
        BonsaiError: the sites are others, or one would have what no model has.
    """
    if set(kept) != {site.name for site in table}:
        odd = sorted(set(kept) ^ {site.name for site in table})
        raise BonsaiError(f"The base has other sites than what was pruned: {', '.join(odd[:3])}.")
    keep_U = ~table.keep_all()
    for site in table:
        numbers = kept[site.name]
        if ((numbers < 0) | (numbers >= site.num_units)).any():
            raise BonsaiError(f"{site.name} has {site.num_units} units in the base, of which others are to stay.")
        keep_U[site.first + numbers] = True
    stay = [site for site in table if table.layer_stays(site.layer, keep_U)]
    lacking = [site.name for site in stay if keep_U[site.units].sum() < site.minimum]
    if not stay or lacking:
        raise BonsaiError(f"Too little is kept of {', '.join(lacking[:3]) or 'the model'} for it to run.")
    return keep_U
