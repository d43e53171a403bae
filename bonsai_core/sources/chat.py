"""Conversations: kept as JSON, one a line, until a tokenizer's chat template renders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bonsai_core.errors import BonsaiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHAREGPT_FIELDS = {"from": "role", "value": "content"}
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_SHAPE = 'A chat is a list of messages like {"role": "user", "content": "..."}.'


def conversation(messages: Sequence[Any], where: str) -> str:
    """The messages of one conversation as JSON on one line; empty without messages.

    Messages may also be written {"from": "human", "value": ...}, as in ShareGPT.

    Raises:
        BonsaiError: a message has no role or no text.
    """
    kept = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise BonsaiError(f"{where}, message {number} is a {type(message).__name__}, not an object. {_SHAPE}")
        read = {_SHAREGPT_FIELDS.get(key, key): value for key, value in message.items() if value is not None}
        for field in ("role", "content"):
            if not isinstance(read.get(field), str):
                raise BonsaiError(
                    f'{where}, message {number}: "{field}" must be text. Its fields: '
                    f"{', '.join(map(str, message)) or 'none'}. {_SHAPE}"
                )
        kept.append({**read, "role": _SHAREGPT_ROLES.get(read["role"], read["role"])})
    try:
        return json.dumps(kept, ensure_ascii=False, default=str) if kept else ""
    except RecursionError:
        raise BonsaiError(f"{where}: nested too deeply. {_SHAPE}") from None


def render(conversations: str, tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """Conversations as the tokenizer's model reads them, without a prompt for another answer.

    Args:
        conversations: JSON, one on each line that is not blank.
        name: of the text, for messages.

    Raises:
        BonsaiError: the tokenizer has no chat template, or its template refuses a conversation.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise BonsaiError(
            f"{name!r} consists of chats, and the model's tokenizer has no chat template to render them. Give a "
            f"model tuned on chats, or text: a data set or a .jsonl file with a text column."
        )
    rendered = []
    for line in filter(None, conversations.split("\n")):
        messages = json.loads(line)
        try:
            rendered.append(str(tokenizer.apply_chat_template(messages, tokenize=False)))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise BonsaiError(
                f"The tokenizer's chat template refuses a conversation of {name!r}: {error}. It begins: {line[:200]}"
            ) from error
    return "".join(rendered)
