"""What one decoder layer computes for each lane: the sub-models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.model.sites.model_site import ModelSite
from bonsai_core.model.sites.variant import Variant
from bonsai_core.model.subject import RepairOf, Subject


@dataclass(frozen=True)
class SiteLanes:
    """What a site computes for each lane.

    Attributes:
        variant_L: number of each lane's variant, int64 [lanes]; lanes with the same pattern share one.
    """

    site: ModelSite
    variants: tuple[Variant, ...]
    variant_L: NDArray[np.int64]


@dataclass(frozen=True)
class LayerLanes:
    """What a decoder layer computes for each lane.

    Attributes:
        stays_L: the lanes that have the layer, bool [lanes]; the others pass it by.
        sites: those of its sites that compute anything but what they do by themselves.
    """

    stays_L: NDArray[np.bool_]
    sites: tuple[SiteLanes, ...]

    @classmethod
    def of(cls, subject: Subject, number: int, keep_LU: NDArray[np.bool_], repair_of: RepairOf | None) -> LayerLanes:
        """Those of a layer under the lanes' keep vectors, bool [lanes, U]."""
        stays_L = np.array([subject.table.layer_stays(number, keep_U) for keep_U in keep_LU])
        sites = []
        for model_site in subject.sites_of_layer(number):
            site = model_site.site
            if not stays_L.any() or not subject.present_U[site.units].any():
                continue
            # Lanes that pass the layer by share the variant of one that does not; it is not used.
            keep_Lu = np.where(stays_L[:, None], keep_LU[:, site.units], keep_LU[stays_L.argmax(), site.units])
            first, variant_L = np.unique(np.packbits(keep_Lu, axis=1), axis=0, return_index=True, return_inverse=True)[
                1:
            ]
            variants = []
            for lane in first:
                lane = lane if stays_L[lane] else stays_L.argmax()
                variants.append(subject.variant(site, keep_LU[lane], repair_of))
            if any(variant.changes for variant in variants):
                sites.append(SiteLanes(model_site, tuple(variants), variant_L.reshape(-1)))
        return cls(stays_L, tuple(sites))

    def calls(self, lane_N: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
        """The sequences that the layer can compute in one call, of sequences of these lanes."""
        stays_N = np.flatnonzero(self.stays_L[lane_N])
        apart = [s.variant_L[lane_N[stays_N]] for s in self.sites if not s.site.mixes_variants]
        if not apart:
            yield from (stays_N,) if len(stays_N) else ()
            return
        _, group_N = np.unique(np.stack(apart), axis=1, return_inverse=True)
        for group in range(group_N.max() + 1 if len(stays_N) else 0):
            yield stays_N[group_N.reshape(-1) == group]

    @contextmanager
    def computing(self, lane_N: NDArray[np.int64]) -> Iterator[None]:
        """The layer computing for sequences of these lanes; no trace stays."""
        with ExitStack() as stack:
            for lanes in self.sites:
                variant_N = lanes.variant_L[lane_N]
                if any(lanes.variants[v].changes for v in np.unique(variant_N)):
                    stack.enter_context(lanes.site.computing(lanes.variants, variant_N))
            yield
