"""What units cost in time: measured on the device at hand, of a few copies of one layer at several widths.

The copies run as the layers of the model itself, with all that is around them, and as many of them as a CPU's cache
cannot hold. What a width saves is the difference that it makes; in between it is interpolated, in steps that devices
like.

Shape legend: W widths that are measured, N numbers of units, S sites.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bonsai_core.model.forward.latency import TimedPass, enough_repeats, least_seconds
from bonsai_core.model.sites.table import SITES
from bonsai_core.model.storage.in_place import InPlace
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.model.subject import Subject
from bonsai_core.units import KINDS_OF_SITE, Price, Site, SiteKind

PICOSECONDS = 10**12
COPIES_BYTES = 128 * 2**20
"""Of the copies of a layer, unless two of them are larger."""
FEW_UNITS = 8
"""All numbers of as few units as these are measured."""
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Of more units."""
STEP, STEP_CUDA = 16, 64
"""Widths between multiples of these take as long as the next one."""
SECONDS, REPEATS = 0.6, (4, 40)
"""What the repeats of a timing take, and how many they are."""
SCALE = (0.5, 2.0)
"""Within these, what a layer takes in the model per what a copy takes among others."""

Side = Callable[[], tuple[float]]


def measure_layers(subject: Subject, timed: TimedPass) -> Mapping[str, Any]:
    """Seconds, as plain data, of which `latency_prices` makes prices.

    Args:
        subject: dense, with its weights in memory.

    Returns:
        ``dense_s``: of a whole pass; ``scale``: see `SCALE`; ``layers``: one for each kind of layer, by the number of
        the first: its ``seconds``, and for its sites ``counts`` of units and the ``seconds`` that they take, both [W].
    """
    numbers = _alike(subject)
    layers = {str(number): _measure_layer(subject, number, timed) for number in dict.fromkeys(numbers.values())}
    few = layers[str(next(iter(numbers)))]
    dense_s, body_s = _seconds([timed.of(subject.model), timed.of(subject.model.base_model)])
    by_copies = sum(layers[str(number)]["seconds"] for number in numbers.values())
    scale = (body_s - few["around"]) / max(by_copies, 1 / PICOSECONDS)
    return {"dense_s": dense_s, "scale": float(np.clip(scale, *SCALE)), "layers": layers}


def latency_prices(subject: Subject, measured: Mapping[str, Any]) -> tuple[list[Price | NDArray[np.int64]], int]:
    """Picoseconds of every site by its number of units, and those of the whole pass."""
    numbers, price_S, taken = _alike(subject), [], dict.fromkeys(subject.layers_present(), 0)
    for site in sorted(subject.table, key=lambda site: site.leaves_with_layer):
        layer = measured["layers"][str(numbers[site.layer])]
        if site.leaves_with_layer:
            whole = round(layer["seconds"] * measured["scale"] * PICOSECONDS)
            price_S.append((site.first, Price(max(0, whole - taken[site.layer]))))
            continue
        found = layer["sites"][site.kind]
        seconds_W = _never_falling(np.array(found["seconds"])) * measured["scale"]
        width_N = np.arange(site.num_units + 1)
        stepped_N = np.minimum(-(-width_N // found["step"]) * found["step"], site.num_units)
        seconds_N = np.interp(stepped_N, found["counts"], seconds_W - seconds_W[0])
        cost_N = np.round(seconds_N * PICOSECONDS).astype(np.int64)
        taken[site.layer] += int(cost_N[-1])
        price_S.append((site.first, cost_N))
    return [price for _, price in sorted(price_S, key=lambda pair: pair[0])], round(measured["dense_s"] * PICOSECONDS)


def _measure_layer(subject: Subject, number: int, timed: TimedPass) -> dict[str, Any]:
    """One layer at all widths of its sites."""
    dense = subject.layers_present()[number]
    size = sum(parameter.numel() * parameter.element_size() for parameter in dense.parameters())
    count = max(2, math.ceil(COPIES_BYTES / max(1, size))) if timed.decode else 2
    copies = [copy.deepcopy(dense) for _ in range(max(2, min(count, len(subject.layers_present()))))]
    all_s, half_s = _seconds([_side(subject, part, timed) for part in (copies, copies[: len(copies) // 2])])
    layer_s = (all_s - half_s) / (len(copies) - len(copies) // 2)
    sites: dict[SiteKind, dict[str, Any]] = {}
    for site in subject.table:
        if site.layer == number and not site.leaves_with_layer:
            counts, step = _widths(site, cuda=subject.device.type == "cuda")
            whole = _side(subject, copies, timed)
            saved = [
                (whole_s - narrow_s) / len(copies)
                for kept in counts[:-1]
                for whole_s, narrow_s in [
                    _seconds([whole, _side(subject, _narrow(subject, copies, site, kept), timed)])
                ]
            ]
            sites[site.kind] = {"counts": counts, "seconds": [-seconds for seconds in (*saved, 0.0)], "step": step}
    return {"seconds": max(0.0, layer_s), "around": max(0.0, all_s - len(copies) * layer_s), "sites": sites}


def _widths(site: Site, *, cuda: bool) -> tuple[list[int], int]:
    """The numbers of units to measure, from the least to all, and the step of those in between."""
    facts = KINDS_OF_SITE[site.kind]
    step = math.lcm(facts.multiple, STEP_CUDA if cuda else STEP) if facts.follows_round_to else 1
    if site.num_units <= FEW_UNITS:
        return list(range(site.minimum, site.num_units + 1)), 1
    if 2 * step > site.num_units:
        step = facts.multiple
    widths = {min(site.num_units, -(-round(share * site.num_units) // step) * step) for share in SHARES}
    least = -(-site.minimum // facts.multiple) * facts.multiple
    return sorted({width for width in widths if width > least} | {least}), step


def _narrow(subject: Subject, copies: Sequence[nn.Module], site: Site, kept: int) -> list[nn.Module]:
    """Copies of copies in which a site has its first units only."""
    narrow = [copy.deepcopy(module) for module in copies]
    for position, module in enumerate(narrow):
        layer, storage = DecoderLayer(site.layer, module), InPlace(subject.model)
        model_site = SITES[site.kind](site, layer, subject.family, subject.model.config, storage)
        model_site.slice(np.arange(site.num_units) < kept, position)
    return narrow


def _side(subject: Subject, layers: Sequence[nn.Module], timed: TimedPass) -> Side:
    """Times a pass of the model's body with these layers in place of its own."""
    for position, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", position)  # noqa: B010  (nn.Module types it otherwise)
    with _layers_are(subject, layers):
        run = timed.of(subject.model.base_model)

    def side() -> tuple[float]:
        with _layers_are(subject, layers):
            return run()

    return side


@contextmanager
def _layers_are(subject: Subject, layers: Sequence[nn.Module]) -> Iterator[None]:
    """The model with other layers; no trace stays."""
    model, path = subject.model, subject.family.layers
    own = decoder_layers(model, subject.family)
    model.set_submodule(path, nn.ModuleList(layers))
    try:
        yield
    finally:
        model.set_submodule(path, own)


def _seconds(sides: Sequence[Side]) -> list[float]:
    """The least that each side took, in turns."""
    seconds: list[float] = least_seconds(sides, enough_repeats(sides, SECONDS, REPEATS))[:, 0].tolist()
    return seconds


def _never_falling(value_W: NDArray[np.float64]) -> NDArray[np.float64]:
    """The closest values that do not fall, by least squares: the mean of neighbours that do."""
    means: list[tuple[float, int]] = []
    for value in value_W.tolist():
        mean, count = value, 1
        while means and means[-1][0] > mean:
            before, number = means.pop()
            mean, count = (before * number + mean * count) / (number + count), number + count
        means.append((mean, count))
    return np.repeat([mean for mean, _ in means], [count for _, count in means])


def _alike(subject: Subject) -> dict[int, int]:
    """For every layer, the number of the first one with the same sites and the same shapes of all parameters."""
    first: dict[Any, int] = {}
    sites: dict[int, list[Any]] = {number: [] for number in subject.layers_present()}
    for site in subject.table:
        sites[site.layer].append((site.kind, site.num_units))
    found = {}
    for number, layer in subject.layers_present().items():
        shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
        found[number] = first.setdefault((shapes, tuple(sites[number])), number)
    return found
