"""What a checkpoint has from its parent unchanged: tokenizer, generation settings, licence, configuration."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.checkpoint.licence import LICENCES, stated_licence
from bonsai_core.checkpoint.older_readers import older_tokenizer, with_older_keys
from bonsai_core.errors import BonsaiError
from bonsai_core.upstream import save_own_code, set_model_name

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "tiktoken.model",
    "*.tiktoken",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
)
"""Patterns of file names, of which a tokenizer has at least one."""
SNAPSHOTS = "snapshots"
"""The folder of the hub's cache that has one for every commit."""
TOKENIZER_FILES = (
    TOKENIZER,
    *VOCABULARIES,
    "tokenizer.*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "merges.txt",
)
"""Patterns of file names; those of the tokenizer's own class are added."""
OF_THE_CHECKPOINT = {
    "model_type",
    "architectures",
    "auto_map",
    "per_layer_config",
    "bonsai_family",
    "added_biases",
    "quantization_config",
    "torch_dtype",  # written beside `dtype`
}
"""Keys of config.json that are never the parent's: it may come with code, which is not copied."""


@dataclass(frozen=True)
class ParentFiles:
    """The files of a parent that do not change when it is pruned or trained.

    Attributes:
        names: the tokenizer's, generation_config.json and licences if there are any, relative to the directory.
        own: its config.json.
        read: what transformers made of that.
        license: what its README.md says of the licence.
    """

    directory: Path
    names: tuple[str, ...]
    own: Mapping[str, Any]
    read: Mapping[str, Any]
    license: Mapping[str, str]

    @classmethod
    def find(cls, directory: Path, config: Any, tokenizer: Any) -> ParentFiles:
        """Those of a directory, with the unchanged configuration and the tokenizer that transformers loaded from it.

        Raises:
            BonsaiError: one of them is a link to a file by another name.
        """
        files = _files(directory, [*tokenizer_patterns(tokenizer), GENERATION])
        for file in sorted(files):
            if _leads_elsewhere(file):
                raise BonsaiError(
                    f"{file} is a link to {file.resolve()}, and would be copied into the checkpoint. Put the file "
                    f"itself there."
                )
        files |= {file for file in _files(directory, LICENCES) if not _leads_elsewhere(file)}
        own = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        names = tuple(file.relative_to(directory).as_posix() for file in sorted(files))
        return cls(directory, names, own, config.to_dict(), stated_licence(directory))

    @property
    def revision(self) -> str | None:
        """The commit of a model on the hub; None for other directories."""
        return self.directory.name if self.directory.parent.name == SNAPSHOTS else None

    def complete(self, checkpoint: Path, config: Any, tokenizer: Any) -> None:
        """Give a checkpoint that transformers has written the parent's files and its configuration's keys.

        Files are the same bytes, except a tokenizer_config.json that older readers would not understand, or that
        means another tokenizer beside the checkpoint's configuration. `tokenizer` is the one in use.
        """
        written = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))
        _write(checkpoint / CONFIG, dict(sorted(self._merged(written, config).items())))
        (checkpoint / GENERATION).unlink(missing_ok=True)
        for name in self.names:
            (checkpoint / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.directory / name, checkpoint / name)
        _settle_tokenizer(checkpoint, config, tokenizer)

    def _merged(self, written: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """config.json: the parent's where nothing changed, in both spellings."""
        merged, now = with_older_keys(written, type(config)), config.to_dict()
        names = getattr(config, "attribute_map", {})
        for key, value in self.own.items():
            name = names.get(key, key)
            if key in OF_THE_CHECKPOINT:
                continue
            # What the class does not keep are old spellings of what pruning does not touch.
            same = name not in now or (name in self.read and now[name] == self.read[name])
            merged[key] = value if same else now[name]
        return merged


def tokenizer_patterns(tokenizer: Any) -> tuple[str, ...]:
    """Names of the files that a tokenizer may be made of."""
    own = getattr(tokenizer, "vocab_files_names", {}).values()
    return (*TOKENIZER_FILES, *(name for name in own if name and Path(name).name == name))


def _files(directory: Path, patterns: Iterable[str]) -> set[Path]:
    return {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}


def _leads_elsewhere(file: Path) -> bool:
    """Whether it is a link to a file by another name, which may be anything; a hub's cache consists of such links."""
    target = file.resolve()
    cache = file.parent.resolve()
    blobs = [folder.parent / "blobs" for folder in cache.parents if folder.name == SNAPSHOTS]
    return target.name != file.name and target.parent not in blobs


def _settle_tokenizer(checkpoint: Path, config: Any, tokenizer: Any) -> None:
    """Make sure that every reader makes the tokenizer in use of the checkpoint's files."""
    from transformers import AutoTokenizer

    file = checkpoint / TOKENIZER
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settled = older_tokenizer(values, tokenizer.model_input_names)
    if not save_own_code(tokenizer, checkpoint):
        # transformers chooses the class by what is declared, by the model type, and by the name of a repository.
        nameless = copy.copy(config)
        set_model_name(nameless, "")
        try:
            chosen = type(AutoTokenizer.from_pretrained(checkpoint, config=nameless))
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise BonsaiError(
                f"The tokenizer needs other files than those with known names, so the checkpoint was not written: "
                f"{error}"
            ) from error
        if chosen.__name__ != type(tokenizer).__name__:
            declared = settled | {"tokenizer_class": type(tokenizer).__name__}
            settled = older_tokenizer(declared, tokenizer.model_input_names)
    if settled != values:
        _write(file, settled)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
