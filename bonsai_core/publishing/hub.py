"""The Hugging Face hub: who may push there, and how files get there."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.publishing.card import CARD_NAME
from bonsai_core.publishing.names import published

PATHLESS = ("tokenizer.json", "vocab.json")
"""JSON files without settings, some of them large."""
MORE = "For more information check: "
"""How a line begins that explains a status of HTTP, which helps nobody here."""
SAFETENSORS = ".safetensors"
STALE = (SAFETENSORS, f"{SAFETENSORS}.index.json")
"""Ends of names of files that would be loaded in place of those that are pushed."""


def check_hub(name: str) -> None:
    """Check, before long work, that a model can be pushed under a name; nothing is made there.

    Raises:
        BonsaiError: there is no token, it may not write there, no owner is named, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise BonsaiError(
            f"--push-to-hub {name} needs an access token of the Hugging Face hub that may write: log in with "
            f"`hf auth login`, or set HF_TOKEN."
        )
    with _explained(f"Cannot push to {name}"):
        user = HfApi().whoami()
    owner, slash, _ = name.partition("/")
    allowed = [user["name"], *(each["name"] for each in user.get("orgs", ()))]
    if not slash:  # the card would name another model
        raise BonsaiError(f"Cannot push to {name}: name the owner too, as in {user['name']}/{name}.")
    if owner not in allowed:
        raise BonsaiError(f"Cannot push to {name}: the access token may write to {', '.join(allowed)}, not to {owner}.")
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise BonsaiError(f"Cannot push to {name}: the access token may only read. Make one that may write.")


def upload(files: Mapping[str, Path], card: str, name: str, *, private: bool) -> str:
    """Push files and a model card as one commit; the repository is made if it is not there.

    If there are weights among the files, others that are there already are removed, because they might be loaded
    instead.

    Args:
        files: by their names in the repository.
        private: whether a repository that is made is only seen by its owner; one that everybody sees is refused then.

    Returns:
        The address of the repository.

    Raises:
        BonsaiError: a file holds what must not be published, or the hub refuses; no file changed there then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    contents: dict[str, Path | bytes] = {file: _publishable(path) for file, path in files.items()}
    contents[CARD_NAME] = card.encode()
    _refuse_secrets(contents)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(file, content) for file, content in sorted(contents.items())
    ]
    api = HfApi()
    with _explained(f"Could not push to {name}"):
        made = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(made.repo_id).private:
            raise BonsaiError(f"{name} exists, and everybody sees it. Make it private there, or choose another name.")
        there = api.list_repo_files(made.repo_id)
        if any(file.endswith(STALE) for file in contents):
            stale = (file for file in there if file.endswith(STALE) and file not in contents)
            operations += [CommitOperationDelete(file) for file in stale]
        api.create_commit(made.repo_id, operations, commit_message="Pruned with Bonsai")
    return str(made)


def _publishable(path: Path) -> Path | bytes:
    """A file; or its contents, without paths, where settings are in it."""
    if path.suffix != ".json" or path.name in PATHLESS or path.name.endswith(STALE):
        return path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BonsaiError(f"{path} is not JSON, and was not published: {shortened(str(error))}") from None
    cleaned = published(values)
    return path if cleaned == values else (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_secrets(contents: Mapping[str, Path | bytes]) -> None:
    """Search everything but the numbers of weights, however large it is."""
    from huggingface_hub import get_token

    token, home = (get_token() or "").encode(), str(Path.home())
    for file, content in contents.items():
        with _searchable(content) as text:
            if token and text.find(token) >= 0:
                what = "the access token"
            elif _has_path_in(home, text):
                what = "the path of a home directory"
            else:
                continue
        raise BonsaiError(f"{file} has {what} in it, and was not published. Remove it from the file.")


def _has_path_in(folder: str, text: bytes | mmap.mmap) -> bool:
    """Whether a path in a folder is named, with slashes of either kind, plain or as in JSON; never one in the root."""
    parts = [part for part in re.split(r"[/\\]", folder) if part]
    if not parts:
        return False
    names = [rb"(?:%s)" % b"|".join(re.escape(way) for way in _written(part)) for part in parts]
    slash = rb"[/\\]+"
    path = (b"" if ":" in parts[0] else slash) + slash.join(names) + slash
    if len(parts) == 1:  # a word like /root/ also stands in vocabularies, and within the paths of others
        path = rb"(?<![\w./\\-])" + path + rb"\w"
    before = 8 * len(folder)  # as long as it may be where it is written as in JSON
    for last in _written(parts[-1]):  # plain words are found much faster than patterns
        at = text.find(last)
        while at >= 0:
            if re.search(path, text[max(0, at - before) : at + len(last) + 8]):
                return True
            at = text.find(last, at + 1)
    return False


def _written(name: str) -> set[bytes]:
    """A part of a path, plain and as in JSON."""
    return {name.encode(), json.dumps(name)[1:-1].encode()}


@contextmanager
def _searchable(content: Path | bytes) -> Iterator[bytes | mmap.mmap]:
    """The contents of a file, which are not read into memory; of safetensors, the header."""
    if isinstance(content, bytes) or not content.stat().st_size:
        yield content if isinstance(content, bytes) else b""
        return
    size = content.stat().st_size
    with content.open("rb") as file:
        if content.suffix == SAFETENSORS:
            size = min(size, 8 + int.from_bytes(file.read(8), "little"))
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            yield mapped


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the hub and the network raise into one message."""
    from huggingface_hub.errors import HfHubHTTPError

    refused: tuple[type[Exception], ...] = (OSError, ValueError, *HfHubHTTPError.__bases__)  # with those of its client
    try:
        yield
    except refused as error:
        lines = [line.strip() for line in str(error).splitlines() if not line.startswith(MORE)]
        why = shortened(" ".join(filter(None, lines)), 500)
        raise BonsaiError(f"{what}: {why} ({type(error).__name__}).") from error
