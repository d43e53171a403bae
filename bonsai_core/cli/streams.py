"""Standard output and error that take every text, whatever their encoding is."""

from __future__ import annotations

import codecs
import io
import sys

ERRORS = "bonsai.replace"
REPLACEMENTS = str.maketrans(
    dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True))  # heights of bars
    | dict(zip("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", r"|/-\|/-\|/", strict=True))  # frames of the spinner
    | {"━": "-", "╸": "-", "╺": "-", "…": ".", "±": "+-", "•": "*", "—": "-", "│": "|", "─": "-"}
)
"""As wide as what they replace, where it is drawn in tables."""


def write_anything() -> None:
    """Replace characters that an encoding lacks, where Python would raise: a bar must not cost hours of measurement.

    What has no likeness in ASCII is written as ``\\xe9``.
    """
    codecs.register_error(ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed, something else in notebooks and tests
            stream.reconfigure(errors=ERRORS)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end].translate(REPLACEMENTS)
    return lost.encode("ascii", "backslashreplace").decode(), error.end
