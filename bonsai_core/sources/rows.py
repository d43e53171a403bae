"""Rows of JSON lines and of the hub, and the documents in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.chat import conversation
from bonsai_core.sources.stored import File, Line, read_lines

TEXT, CHATS = "text", ("messages", "conversations")
"""Columns that are found without being named."""
_SURROGATES = re.compile("[\ud800-\udfff]")


class JsonRow(NamedTuple):
    """An object, its position for messages, and its line."""

    value: Mapping[str, Any]
    where: str
    line: Line


def json_rows(file: File, shape: str) -> Iterator[JsonRow]:
    """The object on each line of a JSON lines file; blank lines are skipped.

    Args:
        shape: a sentence for messages: what a line must be like.

    Raises:
        BonsaiError: the file is not UTF-8, or a line is not a JSON object.
    """
    first = True
    for line in read_lines(file):
        if not line.content.strip():
            continue
        where = f"{file.name!r}, line {line.number}"
        try:
            value = parse(line.content, where, shape)
        except BonsaiError as error:
            if first and line.content.lstrip().startswith("["):
                raise BonsaiError(
                    f"{file.name!r} begins with a JSON array. {shape} An array becomes such lines with: "
                    f"jq -c '.[]' IN.json > OUT.jsonl"
                ) from error
            raise
        yield JsonRow(value, where, line)
        first = False


def parse(content: str, where: str, shape: str) -> Mapping[str, Any]:
    """The object on a line.

    Raises:
        BonsaiError: there is none.
    """
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise BonsaiError(f"{where}: not valid JSON ({error.msg}, column {error.colno}). {shape}") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise BonsaiError(f"{where}: not usable JSON ({error}). {shape}") from error
    except RecursionError:
        raise BonsaiError(f"{where}: the JSON is nested too deeply. {shape}") from None
    if not isinstance(value, dict):
        raise BonsaiError(f"{where}: a {type(value).__name__}, where an object is needed. {shape}")
    return value


def document(row: Mapping[str, Any], where: str, column: str, chat: bool) -> str:
    """The text in a column of a row; of a chat, its messages as JSON on one line.

    Raises:
        BonsaiError: there is no such column, or something else in it.
    """
    value = row.get(column)
    if not isinstance(value, list if chat else str):
        wrong = f'"{column}" is a {type(value).__name__}' if column in row else f'there is no "{column}"'
        raise BonsaiError(
            f"{where}: {wrong}. Its fields: {', '.join(map(str, row)) or 'none'}. "
            f'Text goes in "{TEXT}", a chat in "{CHATS[0]}".'
        )
    text = conversation(value, f"{where}, {column!r}") if chat else str(value)
    refuse_surrogates(text, where)
    return text


def chat_column(row: Mapping[str, Any]) -> str | None:
    """The column of a row that holds a chat; None if there is none."""
    return next((column for column in CHATS if isinstance(row.get(column), list)), None)


def refuse_surrogates(text: str, where: str) -> None:
    """Raise for what JSON can write and UTF-8 cannot."""
    if _SURROGATES.search(text):
        raise BonsaiError(f"{where}: half of a surrogate pair (\\ud800-\\udfff), which no tokenizer can encode.")
