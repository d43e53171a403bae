"""Finds the files of a model that its pruned checkpoints keep, in a directory or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_core.checkpoint import ParentFiles
from bonsai_core.checkpoint.licence import LICENCES, README
from bonsai_core.checkpoint.parent import CONFIG, GENERATION, tokenizer_patterns
from bonsai_core.model.loading.lookup import find_source, loading_error


def find_parent_files(source: str, config: Any, tokenizer: Any) -> ParentFiles:
    """The parent's files that go into the checkpoint unchanged; those of a Hugging Face id are downloaded.

    Raises:
        BonsaiError: they cannot be obtained, or one is a link to something else.
    """
    directory = Path(find_source(source))
    if not directory.is_dir():
        from huggingface_hub import snapshot_download

        patterns = [CONFIG, GENERATION, README, *LICENCES, *tokenizer_patterns(tokenizer)]
        try:
            directory = Path(snapshot_download(source, allow_patterns=patterns))
        except (OSError, ValueError) as error:
            raise loading_error(f"the tokenizer of {source}", error) from error
    return ParentFiles.find(directory, config, tokenizer)
