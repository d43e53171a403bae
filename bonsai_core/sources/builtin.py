"""The text that ships with Python: its own language reference."""

from __future__ import annotations

import hashlib

from bonsai_core.sources.text import BLANK_LINES, EVALUATION_FRACTION, Purpose


def builtin_text(purpose: Purpose) -> str:
    """Whole topics of Python's reference, about a fifth of the characters for evaluation."""
    topics = _distinct_topics()
    room = EVALUATION_FRACTION * sum(map(len, topics.values()))
    evaluation = set()
    # Ordered by hash, because neighbours in the alphabet are about the same things (typesseq, typesmapping).
    for topic in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(topics[topic]) <= room:
            evaluation.add(topic)
            room -= len(topics[topic])
    return "\n\n".join(topics[topic] for topic in sorted(topics) if (topic in evaluation) == (purpose == "evaluation"))


def _distinct_topics() -> dict[str, str]:
    """Topic -> its text, without the paragraphs that a longer topic has.

    A fifth of the corpus repeats, because short topics are excerpts of long ones. The long ones go first and stay
    readable; what is left of the excerpts is mere headings, and is dropped.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    distinct: dict[str, str] = {}
    for topic in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        fresh = []
        for paragraph in BLANK_LINES.split(topics[topic]):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph.strip("\n"))
        remainder = "\n\n".join(fresh)
        if len(remainder) > len(topics[topic]) / 2:
            distinct[topic] = remainder
    return distinct
