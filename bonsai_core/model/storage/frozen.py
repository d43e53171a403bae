"""A model whose weights cannot be changed where they are: quantised, or in part on the CPU or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bonsai_core.contracts import Family, Repair
from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.structure.channels import by_unit
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site, UnitTable


@dataclass(frozen=True)
class AppliedRepair:
    """The repair of a site, which its output projection does not hold but a hook applies.

    Attributes:
        keep: units that it is for, bool [units]; all others are gone.
        weight: [out, units kept, channels]; None where the parent's stays.
        bias: what is added to the output, [out]; None for nothing.
    """

    keep: NDArray[np.bool_]
    weight: Tensor | None
    bias: Tensor | None


class FrozenSubject(Subject):
    """Measured under masks alone, with repairs applied by hooks; nothing is sliced before the checkpoint is written.

    Weights are read from the parent's files in full precision, one at a time.

    Args:
        model: a transformers causal LM.
        family: how it is built.
        table: its unit table, made from its configuration.
        files: its weights on disk.

    Raises:
        BonsaiError: the files have weights together that the model has apart.
    """

    in_place: ClassVar[bool] = False

    def __init__(self, model: Any, family: Family, table: UnitTable, files: WeightFiles) -> None:
        _check(model, files)
        self.files = files
        self.applied_repairs: dict[str, AppliedRepair] = {}
        super().__init__(model, family, table=table)

    @property
    def home(self) -> torch.device:
        return torch.device("cpu")

    def dtype_of(self, site: Site) -> torch.dtype:
        return self.files.dtype

    def output_name(self, site: Site) -> str:
        """The name of a site's output projection's weight in the checkpoint."""
        return self.name_in_layer(site, f"{self.output_path(site)}.weight")

    def name_in_layer(self, site: Site, path: str) -> str:
        """The name, in the checkpoint, of what has a name in a site's layer."""
        return f"{self.family.layers}.{site.layer}.{path}"

    def unit_weight(self, site: Site, alive_U: NDArray[np.bool_]) -> Tensor:
        if site.in_mixture:
            return super().unit_weight(site, alive_U).to(self.device)
        applied, alive = self.applied_repairs.get(site.name), alive_U[site.units]
        if applied is not None and applied.weight is not None:
            weight, alive = applied.weight, alive[applied.keep]
        else:
            weight = by_unit(self.files.load(self.output_name(site)), site)
        return weight[:, torch.from_numpy(alive)].to(self.device).float()

    def slice(self, keep_U: NDArray[np.bool_]) -> None:
        raise AssertionError("weights of such models are sliced on their way to the checkpoint")

    def repair(self, site: Site, keep_U: NDArray[np.bool_], repair: Repair) -> None:
        self.applied_repairs[site.name] = self._after(site, keep_U, repair)

    @contextmanager
    def repaired(self, keep_U: NDArray[np.bool_], repairs: Iterable[tuple[Site, Repair]]) -> Iterator[None]:
        before = dict(self.applied_repairs)
        try:
            for site, repair in repairs:
                self.repair(site, keep_U, repair)
            with self.masked(keep_U):
                yield
        finally:
            self.applied_repairs = before

    @contextmanager
    def masked(self, keep_U: NDArray[np.bool_]) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().masked(keep_U))
            for site in self.sites_present():
                if site.name in self.applied_repairs:
                    hook = self._apply(site, self.applied_repairs[site.name])
                    stack.callback(self.output(site).register_forward_hook(hook).remove)
            yield

    def _parameters_of(self, site: Site) -> Callable[[str], Tensor]:
        return lambda path: self.files.load(self.name_in_layer(site, path))

    def _after(self, site: Site, keep_U: NDArray[np.bool_], repair: Repair) -> AppliedRepair:
        """What stands once a repair has come on top of what stood before."""
        before = self.applied_repairs.get(site.name)
        biases = [bias for bias in (before.bias if before else None, repair.bias) if bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        if before is None or repair.weight is not None:
            return AppliedRepair(keep_U[site.units].copy(), repair.weight, bias)
        return replace(before, bias=bias)

    def _apply(self, site: Site, applied: AppliedRepair) -> Any:
        keep = torch.from_numpy(applied.keep)
        name = self.output_name(site).removesuffix("weight") + "bias"
        own_bias = self.files.load(name) if name in self.files else None

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if applied.weight is not None:
                inputs = by_unit(args[0], site)[..., keep.to(args[0].device), :].flatten(-2)
                output = functional.linear(inputs, applied.weight.flatten(1).to(inputs))
                output = output if own_bias is None else output + own_bias.to(output)
            return output if applied.bias is None else output + applied.bias.to(output)

        return hook


def _check(model: Any, files: WeightFiles) -> None:
    """Refuse weights that cannot be written back to files one by one."""
    divided = sorted(name for name in model.state_dict() if name in files and files.num_elements(name) is None)
    if divided:
        raise BonsaiError(
            f"transformers divides tensors of this model's files ({divided[0]} is a part of one), so it cannot be "
            f"sliced from file to file. Give no --device-map and no --load-in."
        )
