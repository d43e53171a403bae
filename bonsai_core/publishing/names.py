"""What may be published of the names in settings: never where something is on the machine that made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.settings.names import is_hub_name
from bonsai_core.sources.demo import MODEL_ID
from bonsai_core.sources.hub import DatasetName
from bonsai_core.sources.mixture import named_texts

NAMED = {"demo": MODEL_ID, "wikitext2": "Salesforce/wikitext", "c4": "allenai/c4"}
"""What names of ours are called on the hub."""
TEXTS = {*RunConfig.TEXTS, *AdaptConfig.TEXTS}
KEYS = {
    *RunConfig.PATHS,
    *RunConfig.RECIPES,
    *AdaptConfig.PATHS,
    "base_model",
    "of",  # what was adapted
    "name_or_path",
    "_name_or_path",
    "tokenizer_file",
    "special_tokens_map_file",
}
"""Keys of JSON files of checkpoints and plans that may name a path."""
SETTINGS = "config"
"""Below this key are settings, in which any text may be a path: those of plugins too."""
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/")
_CREDENTIALS = re.compile(r"//[^/\s]+@")
_SLASH = re.compile(r"[/\\]")
_LOCAL = re.compile(r"[~/.\\]|[A-Za-z]:[/\\]|file:")


def public_name(name: str) -> str:
    """A model, a text or a file by name: of a path the last part, or the hub id that it is the cache of."""
    slashes = name.replace("\\", "/")
    cached = _CACHED.search(slashes)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    if _LOCAL.match(name) or slashes.count("/") > 1:
        parts = [part for part in slashes.split("/") if part not in ("", ".", "..")]
        return parts[-1] if parts else "local"
    return name


def public_text(asked: str) -> str:
    """The same of a setting that may name several texts with shares."""
    try:
        named = named_texts(asked)
    except BonsaiError:
        return public_name(asked)
    if len(named) == 1:
        return public_name(asked)
    return ",".join(f"{public_name(name)}:{share:g}" for name, share in named)


def without_credentials(text: str) -> str:
    """Text in which addresses have no user name and no password."""
    return _CREDENTIALS.sub("//...@", text)


def hub_model(name: str) -> str | None:
    """The hub id of a model; None if it is not one from the hub, or not known to be."""
    found = NAMED.get(name, public_name(name))
    return found if "/" in found and is_hub_name(found) else None


def hub_datasets(asked: str) -> list[str]:
    """The hub ids among the texts that a setting names."""
    try:
        names = [name for name, _ in named_texts(asked)]
        found = [NAMED.get(name) or DatasetName.of(public_name(name)).name for name in names]
    except BonsaiError:
        return []
    return [name for name in found if "/" in name and is_hub_name(name)]


def published(value: Any, key: str = "") -> Any:
    """Plain data of a JSON file as it may be published."""
    if isinstance(value, Mapping):
        return {
            name: published_settings(item) if name == SETTINGS else published(item, str(name))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [published(item, key) for item in value]
    return _published_name(value, key) if isinstance(value, str) and key in {*TEXTS, *KEYS} else value


def published_settings(value: Any, key: str = "") -> Any:
    """Settings of a run or an adaptation, or one of them, as they may be published."""
    if isinstance(value, Mapping):
        return {
            name: _published_option(item) if key else published_settings(item, str(name))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [published_settings(item, key) for item in value]
    return _published_name(value, key) if isinstance(value, str) else value


def _published_option(value: Any) -> Any:
    """An option of a plugin: nobody knows whether ``data/acme`` is a folder here or somebody's on the hub."""
    if isinstance(value, Mapping):
        return {name: _published_option(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_published_option(item) for item in value]
    if not isinstance(value, str) or not _SLASH.search(value):
        return value
    found = public_name(value)
    return found if found != value else _SLASH.split(value)[-1] or "local"


def _published_name(name: str, key: str) -> str:
    return public_text(name) if key in TEXTS else public_name(name)
