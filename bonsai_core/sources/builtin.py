"""The texts that ship with Python: its language reference, and source code of its standard library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.text import BLANK_LINES, EVALUATION_FRACTION, Purpose

MODULES = (
    *("calendar", "configparser", "contextlib", "csv", "dataclasses", "difflib", "fractions", "functools", "gettext"),
    *("heapq", "pprint", "random", "shutil", "smtplib", "statistics", "textwrap", "traceback"),
)
"""Modules of many kinds, written in Python, that every supported version has."""


def builtin_text(name: str, purpose: Purpose) -> str:
    """Whole topics, or whole modules, about a fifth of the characters for evaluation.

    Args:
        name: one of `BUILTIN`.

    Raises:
        BonsaiError: Python was installed without them.
    """
    documents = _distinct(BUILTIN[name]())
    room = EVALUATION_FRACTION * sum(map(len, documents.values()))
    evaluation = set()
    # Ordered by hash, because neighbours in the alphabet are about the same things (typesseq, typesmapping).
    for title in sorted(documents, key=lambda title: hashlib.sha256(title.encode()).digest()):
        if len(documents[title]) <= room:
            evaluation.add(title)
            room -= len(documents[title])
    chosen = [title for title in sorted(documents) if (title in evaluation) == (purpose == "evaluation")]
    return "\n\n".join(documents[title] for title in chosen)


def _topics() -> Mapping[str, str]:
    from pydoc_data.topics import topics

    return topics


def _modules() -> Mapping[str, str]:
    return {name: _source_code(name) for name in MODULES}


def _source_code(module: str) -> str:
    spec = find_spec(module)
    read = getattr(spec.loader, "get_source", None) if spec else None
    content = read(module) if read else None
    if not content:
        raise BonsaiError(
            f"The source code of Python's module {module} is not installed here, so there is no text 'builtin-code'. "
            f"Name another one: a file or a data set (of the guard: --guard-dataset, or none)."
        )
    return str(content)


BUILTIN: Mapping[str, Callable[[], Mapping[str, str]]] = {"builtin": _topics, "builtin-code": _modules}
"""What each text is made of: documents by title."""


def _distinct(documents: Mapping[str, str]) -> dict[str, str]:
    """Documents by title, without the paragraphs that a longer one has.

    A fifth of the topics repeats, because short ones are excerpts of long ones. The long ones go first and stay
    readable; what is left of the excerpts is mere headings, and is dropped.
    """
    seen: set[str] = set()
    distinct: dict[str, str] = {}
    for title in sorted(documents, key=lambda title: (-len(documents[title]), title)):
        fresh = []
        for paragraph in BLANK_LINES.split(documents[title]):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph.strip("\n"))
        remainder = "\n\n".join(fresh)
        if len(remainder) > len(documents[title]) / 2:
            distinct[title] = remainder
    return distinct
