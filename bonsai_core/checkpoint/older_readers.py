"""What transformers 5 writes, in the spellings that version 4 and tools built on it read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError

ROPE_NAMES = (("rope_theta", "partial_rotary_factor"), ("rotary_emb_base", "rotary_pct"))
"""Names in version 4 of the base and the rotated fraction of a head; the second pair is GPT-NeoX's."""
UNSCALED = "default"
BY_KIND = ("full_attention", "sliding_attention")
PROBE = 1.0  # added to a base, to see whether a spelling of it is read


def with_older_keys(values: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """A config.json of transformers 5, read by `config_class`, in both spellings wherever there are two."""
    names = getattr(config_class, "attribute_map", {})
    older = {alias: values[name] for alias, name in names.items() if name in values}
    if "dtype" in values:
        older["torch_dtype"] = values["dtype"]
    return older | _older_rope(values, config_class) | dict(values)


def older_tokenizer(values: Mapping[str, Any], input_names: Sequence[str]) -> dict[str, Any]:
    """A tokenizer_config.json with what only transformers 5 understands spelled so that both versions read it.

    Args:
        input_names: the tokenizer's outputs; version 4 would add token types, which decoders refuse.
    """
    renamed = dict(values)
    if renamed.get("tokenizer_class") == "TokenizersBackend":
        renamed["tokenizer_class"] = "PreTrainedTokenizerFast"
        renamed.setdefault("model_input_names", list(input_names))
    if isinstance(renamed.get("extra_special_tokens"), list):  # version 4 has names for these
        extra = renamed.pop("extra_special_tokens")
        if extra:
            renamed.setdefault("additional_special_tokens", extra)
    return renamed


def _older_rope(values: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """`rope_parameters` as version 4 spells them; nothing where no such spelling is known.

    transformers 5 reads the old names too, so we try which of them it understands, with a base other than the true
    one: a default would look as if it had been read.
    """
    rope = values.get("rope_parameters")
    if not rope:
        return {}
    rest = {name: value for name, value in values.items() if name != "rope_parameters"}
    moved = _moved(rope)
    for names in ROPE_NAMES:
        try:
            spelled = copy.deepcopy(rest | _spelled(moved, names, rest))  # reading changes dictionaries in place
            read = config_class.from_dict(spelled).rope_parameters
        except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError):  # a class need not know it
            continue
        if _plain(read) == _plain(moved):
            return _spelled(rope, names, rest)
    return {}


def _spelled(rope: Mapping[str, Any], names: tuple[str, str], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters by old names; of layers with windows there is only the base."""
    full, sliding = (rope.get(kind) for kind in BY_KIND)
    if full and sliding:
        return _spelled(full, names, rest) | {"rope_local_base_freq": sliding["rope_theta"]}
    if "rope_theta" not in rope:
        return {}
    base, fraction = names
    apart = {"rope_theta": base, "partial_rotary_factor": fraction}
    spelled = {name: rope[key] for key, name in apart.items() if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in apart and key not in rest}
    if rope.get("rope_type") == "longrope":  # stock Phi-3 configurations take these three keys and no others
        scaling["type"] = scaling.pop("rope_type")
    if rope.get("rope_type", UNSCALED) != UNSCALED:
        spelled["rope_scaling"] = scaling
    return spelled


def _moved(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters with other bases."""
    moved: dict[str, Any] = {key: _moved(value) if isinstance(value, dict) else value for key, value in rope.items()}
    if moved.get("rope_theta") is not None:  # transformers 5.14 writes none beside those of two kinds of layer
        moved["rope_theta"] += PROBE
    return moved


def _plain(rope: Any) -> Any:
    """Rotary parameters without the old name of the type, which stays in what was read."""
    return {key: _plain(value) for key, value in rope.items() if key != "type"} if isinstance(rope, dict) else rope
