"""The model under pruning: keep vectors laid over it for a while, and units removed from it for good."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Family, Repair
from bonsai_core.model.sites.linear_site import LinearSite
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.sites.model_site import ModelSite, Reader
from bonsai_core.model.sites.table import SITES, unit_table
from bonsai_core.model.sites.variant import Variant
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.storage.in_place import InPlace
from bonsai_core.model.storage.memory import release
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.channels import select_units
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.model.structure.layer_count import set_layers
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import Site, UnitKind, UnitTable

RepairOf = Callable[[Site, NDArray[np.bool_]], Repair | None]
"""The repair that a site gets under a keep vector over all units, bool [U]; None for none."""


@final
class Subject:
    """A causal LM, its unit table, and which units are still physically there.

    Args:
        model: a dense transformers model; where its weights can be changed, it is sliced in place.
        family: how it is built.
        units: what may leave, as for `unit_table`.
        table: its unit table, where that cannot be read off it.
        storage: where its weights are; None for in the model.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        *,
        units: Collection[UnitKind] = (),
        table: UnitTable | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.model = model.eval()
        self.family = family = family.of(model.config)
        self.table = table or unit_table(model, family, units)
        self.storage = storage or InPlace(model)
        self.present_U = self.table.keep_all()
        self._layers = {n: DecoderLayer(n, module) for n, module in enumerate(decoder_layers(model, family))}
        self._sites: dict[str, ModelSite] = {
            site.name: SITES[site.kind](site, self._layers[site.layer], family, model.config, self.storage)
            for site in self.table
            if not site.leaves_with_layer
        }
        self._output_paths = tuple(dict.fromkeys(site.output.path for site in self._linear_sites()))

    @property
    def in_place(self) -> bool:
        """Whether its weights can be sliced and repaired where they are."""
        return self.storage.files is None

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)

    @property
    def home(self) -> torch.device:
        """Where new weights are put."""
        return self.storage.home

    def dtype_of(self, site: Site) -> torch.dtype:
        """The type of new weights."""
        return self.storage.dtype_of(self._linear_site(site).output)

    def output(self, site: Site) -> nn.Linear:
        """The site's output projection; its input channels are the units'."""
        return self._linear_site(site).output.linear

    def reads(self, site: Site) -> Reader:
        """The module that reads what the units give, and what it reads of the arguments of a call: [..., channels]."""
        return self._sites[site.name].reads()

    def unit_weight(self, site: Site, alive_U: NDArray[np.bool_]) -> Tensor:
        """The output projection's weight by the units alive, float32 [out, units, channels].

        Units of a mixture count as one channel each, see `Mixture`.
        """
        weight = self._sites[site.name].unit_weight(self._present(site, alive_U))
        return weight.to(self.device).float()

    def moments(self, site: Site, lower: Tensor) -> Tensor:
        """Second moments of what a site reads; `lower` is right on and below the diagonal, and overwritten."""
        return self._sites[site.name].moments(lower)

    def select_alive(self, site: Site, alive_U: NDArray[np.bool_], present: Tensor, dim: int) -> Tensor:
        """Of a tensor over the units that are still there, those alive: where slicing waits, others are there too."""
        return select_units(present, self._present(site, alive_U), dim)

    def sites_present(self) -> list[Site]:
        """Attentions, MLPs and mixtures of experts that have at least one unit left."""
        return [site for site in self.table if not site.leaves_with_layer and self.present_U[site.units].any()]

    def sites_of_layer(self, number: int) -> list[ModelSite]:
        """What a layer's sites physically are; `number` is that of the dense model."""
        return [site for site in self._sites.values() if site.layer.number == number]

    def layers_present(self) -> dict[int, nn.Module]:
        """The decoder layers that are still there, by their numbers in the dense model."""
        return {number: layer.module for number, layer in self._layers.items()}

    @contextmanager
    def masked(self, keep_U: NDArray[np.bool_], repair_of: RepairOf | None = None) -> Iterator[None]:
        """The sub-model under a keep vector: dropped units' channels count as zeros in the output projection.

        Of experts, tokens are sent to those that are kept. Layers that are dropped whole pass their input through.
        Sites that lose nothing are left alone; on leaving, no trace stays.

        Args:
            repair_of: the repair that a site gets; None for none.
        """
        with ExitStack() as stack:
            for number, layer in self.layers_present().items():
                if not self.table.layer_stays(number, keep_U):
                    stack.callback(layer.register_forward_hook(_pass_through, with_kwargs=True).remove)
            for site in self.sites_present():
                if self.table.layer_stays(site.layer, keep_U):
                    variant = self.variant(site, keep_U, repair_of)
                    if variant.changes:
                        stack.enter_context(self._sites[site.name].computing([variant]))
            yield

    def variant(self, site: Site, keep_U: NDArray[np.bool_], repair_of: RepairOf | None) -> Variant:
        """What a site computes under a keep vector."""
        repair = None if repair_of is None else repair_of(site, keep_U)
        return self._sites[site.name].variant(self._present(site, keep_U), repair)

    def slice(self, keep_U: NDArray[np.bool_]) -> None:
        """Remove every unit that is not kept, in place, one linear at a time.

        Units keep their numbers; slicing twice equals slicing once by the second keep vector.
        """
        assert self.in_place, "weights that are stored elsewhere are sliced on their way to the checkpoint"
        for number in self.layers_present():
            self.slice_layer(number, keep_U)
        self._remove_layers([n for n in self.layers_present() if not self.table.layer_stays(n, keep_U)])

    def slice_layer(self, number: int, keep_U: NDArray[np.bool_]) -> None:
        """The same for what leaves one layer; a whole layer stays."""
        stay = [n for n in self.layers_present() if self.table.layer_stays(n, keep_U)]
        for site in self.sites_present():
            keep = self._present(site, keep_U)
            if site.layer == number and number in stay and not keep.all():
                self._sites[site.name].slice(keep, stay.index(number))
                self.present_U[site.units] &= keep_U[site.units]

    def repair(self, site: Site, keep_U: NDArray[np.bool_], repair: Repair, *, of_dense: bool = True) -> None:
        """Apply a repair for good; units that are not kept stay as they are.

        Args:
            of_dense: whether it is a repair of the dense projection, or else of the present one.
        """
        self.storage.repair(self._linear_site(site).output, self._present(site, keep_U), repair, of_dense=of_dense)

    def complete_biases(self) -> None:
        """Give every output projection that has no bias one of zeros: checkpoints have all of them or none."""
        for site in self._linear_sites():
            site.complete_bias()

    def idle_params(self, keep_U: NDArray[np.bool_]) -> int:
        """Parameters of the model sliced by a keep vector that one token's pass does not use: experts of others."""
        return sum(
            site.idle_params(keep_U[site.site.units])
            for site in self._sites.values()
            if isinstance(site, Mixture) and self.table.layer_stays(site.layer.number, keep_U)
        )

    def output_paths(self) -> tuple[str, ...]:
        """Names of the output projections, relative to a decoder layer."""
        return self._output_paths

    def layer_sizes(self, keep_U: NDArray[np.bool_] | None = None) -> list[dict[str, int]]:
        """The true sizes of each layer that is left, under the names its configuration class uses.

        Args:
            keep_U: of the model sliced by it; None as it is.
        """
        left_U = self.present_U if keep_U is None else keep_U
        sizes: dict[int, dict[str, int]] = {n: {} for n in self.layers_present() if self.table.layer_stays(n, left_U)}
        for site in self.table:
            if not site.leaves_with_layer and site.layer in sizes:
                count = int(left_U[site.units].sum())
                sizes[site.layer].update(SITES[site.kind].sizes(self.family, self.model.config, count))
        return list(sizes.values())

    def _present(self, site: Site, keep_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of the units that a site still has, those kept, bool [units present]."""
        return keep_U[site.units][self.present_U[site.units]]

    def _linear_sites(self) -> Iterator[LinearSite]:
        return (site for site in self._sites.values() if isinstance(site, LinearSite))

    def _linear_site(self, site: Site) -> LinearSite:
        model_site = self._sites[site.name]
        assert isinstance(model_site, LinearSite)
        return model_site

    def _remove_layers(self, gone: Collection[int]) -> None:
        """Remove whole layers; those after them move up, in the key-value cache and in the configuration too."""
        if not gone:
            return
        layers = decoder_layers(self.model, self.family)
        stay = [position for position, number in enumerate(self._layers) if number not in gone]
        set_layers(self.model.config, stay)
        for number in gone:
            for parameter in self._layers.pop(number).module.parameters():
                release(parameter.data)
        for site in self.table:
            if site.layer in gone:
                self.present_U[site.units] = False
                self._sites.pop(site.name, None)
        for position in sorted(set(range(len(layers))) - set(stay), reverse=True):
            del layers[position]
        for position, layer in enumerate(layers):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", position)  # noqa: B010  (nn.Module types it otherwise)


def _pass_through(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """A layer's input in place of its output."""
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
