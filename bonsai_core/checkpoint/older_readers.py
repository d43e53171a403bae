"""What transformers 5 writes, in the spellings that version 4, and tools built on it, read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError

ROPE_NAMES = (("rope_theta", "partial_rotary_factor"), ("rotary_emb_base", "rotary_pct"))
"""What configurations of version 4 call the base and the rotated fraction of a head; GPT-NeoX calls them otherwise."""
UNSCALED = "default"
BY_KIND = ("full_attention", "sliding_attention")
PROBE = 1.0  # added to a base, to see whether a spelling of it is read


def with_older_keys(values: Mapping[str, Any], config_class: Any) -> dict[str, Any]:
    """A configuration in both spellings, wherever two are known.

    Args:
        values: config.json, as transformers 5 writes it.
        config_class: the class that reads it.
    """
    older = {
        alias: values[name] for alias, name in getattr(config_class, "attribute_map", {}).items() if name in values
    }
    if "dtype" in values:
        older["torch_dtype"] = values["dtype"]
    return older | _older_rope(values, config_class) | dict(values)


def older_tokenizer(values: Mapping[str, Any], input_names: Sequence[str]) -> dict[str, Any]:
    """A tokenizer_config.json with what only transformers 5 understands spelled as both versions do.

    Args:
        input_names: what the tokenizer gives; version 4 would add token types to it, which decoders refuse.
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

    transformers 5 reads the old names too, so it is asked which of them it understands, with another base than the
    true one: defaults would pass for having been read.
    """
    rope = values.get("rope_parameters")
    if not rope:
        return {}
    rest = {name: value for name, value in values.items() if name != "rope_parameters"}
    moved = _moved(rope)
    for names in ROPE_NAMES:
        try:
            # What reading does to a dictionary, it does in place.
            spelled = json.loads(json.dumps(rest | _spelled(moved, names, rest)))
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
    """The same with other bases."""
    moved: dict[str, Any] = {key: _moved(value) if isinstance(value, dict) else value for key, value in rope.items()}
    if moved.get("rope_theta") is not None:  # transformers 5.14 writes none beside those of two kinds of layer
        moved["rope_theta"] += PROBE
    return moved


def _plain(rope: Any) -> Any:
    """Without the old name of the type, which stays where it was read from."""
    if not isinstance(rope, dict):
        return rope
    return {key: _plain(value) for key, value in rope.items() if key != "type"}
