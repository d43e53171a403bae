"""Names of files, folders, models and texts; those that no file system accepts are refused before they are used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator

from bonsai_core.errors import BonsaiError, shown

LONGEST_PART, LONGEST_PATH = 255, 1000
"""Bytes of one name in a path, and of a whole path (systems accept 1024 or more, and files go into folders)."""
LONGEST_ON_HUB = 96
"""Characters of the name of a repository on the Hugging Face hub."""
_ON_HUB = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
Name = TypeVar("Name")


def name_fault(name: str) -> str | None:
    """What is wrong with a name of a file, a folder or something on a hub; None if nothing is."""
    if not name.strip():
        return "the name is empty"
    if "\0" in name:
        return "the name has a zero byte in it"
    try:
        data = name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8: rename the file or folder, or make a link with another name"
    longest = max(len(part) for part in re.split(rb"[/\\]", data))
    if longest > LONGEST_PART or len(data) > LONGEST_PATH:
        limits = f"at most {LONGEST_PART} between two slashes, and {LONGEST_PATH:,} in all"
        return f"the name is too long ({len(data):,} bytes; {limits})"
    return None


def checked_name(name: str, what: str = "name") -> str:
    """The same name; `what` it is a name of is for the message.

    Raises:
        BonsaiError: it is empty, too long for a file system, or has characters that names cannot have.
    """
    fault = name_fault(name)
    if fault:
        raise BonsaiError(f"The {what} {shown(name)} cannot be used: {fault}.")
    return name


def _checked_setting(value: object) -> object:
    fault = name_fault(str(value)) if isinstance(value, str | Path) else None
    if fault:
        raise ValueError(fault)
    return value


Usable = Annotated[Name, BeforeValidator(_checked_setting)]
"""A setting, `str` or `Path`, that names a file, a folder or something on a hub."""


def is_hub_name(name: str) -> bool:
    """Whether a repository on the Hugging Face hub can have a name, with or without its owner's."""
    rules = (".." not in name, "--" not in name, not name.endswith((".", "-", ".git")), len(name) <= LONGEST_ON_HUB)
    return bool(_ON_HUB.fullmatch(name)) and all(rules)


def checked_hub_name(name: str) -> str:
    """The same name; raises `ValueError` if no repository can have it."""
    if not is_hub_name(name):
        raise ValueError("write it as OWNER/NAME, of letters, digits, '-', '_' and '.', at most 96 characters")
    return name


HubName = Annotated[str, AfterValidator(checked_hub_name)]
"""A setting that names a model on the Hugging Face hub."""
