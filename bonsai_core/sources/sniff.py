"""What a file is that is not text in UTF-8, and what to do about it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bonsai_core.errors import BonsaiError

HEAD = 2**16  # bytes of a file that are looked at
NUL_FRACTION = 1e-3  # of the characters; text from the web has a stray one now and then
CONTROL_FRACTION = 0.01
_CONTROLS = bytes(sorted({*range(32), 127} - {*b"\t\n\v\f\r\b\x1b"}))


class Kind(NamedTuple):
    """A kind of file that begins with certain bytes; `remedy` has places for the names to read from and write to."""

    magic: bytes
    what: str
    remedy: str


_ICONV = "Convert it: iconv -f {} -t utf-8 {{file}} > {{plain}}"
KINDS = (
    Kind(b"\xff\xfe\0\0", "text in UTF-32", _ICONV.format("utf-32")),  # before UTF-16, which begins alike
    Kind(b"\0\0\xfe\xff", "text in UTF-32", _ICONV.format("utf-32")),
    Kind(b"\xff\xfe", "text in UTF-16", _ICONV.format("utf-16")),
    Kind(b"\xfe\xff", "text in UTF-16", _ICONV.format("utf-16")),
    Kind(
        b"PAR1\x15",
        "a Parquet file",
        "Give the hub id of its data set, or convert it: "
        "python -c \"import sys, datasets; datasets.Dataset.from_parquet(sys.argv[1]).to_json('text.jsonl')\" {file}",
    ),
    Kind(b"\x1f\x8b", "compressed with gzip", "Unpack it first: gzip -dc {file} > {unpacked}"),
    Kind(b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first: zstd -dc {file} > {unpacked}"),
    Kind(b"\xfd7zXZ\0", "compressed with xz", "Unpack it first: xz -dc {file} > {unpacked}"),
    *(
        Kind(b"BZh%d1AY&SY" % level, "compressed with bzip2", "Unpack it first: bzip2 -dc {file} > {unpacked}")
        for level in range(1, 10)
    ),
    Kind(b"PK\x03\x04", "a zip archive, or a document in one (.docx, .epub)", "Give the text in it: unzip {file}"),
    Kind(b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Give the text in it: 7z x {file}"),
    Kind(b"%PDF-", "a PDF document", "Give its text: pdftotext {file} {plain}"),
)
_READ_WRONGLY = ("\xff\xfe".encode(), "\xfe\xff".encode())
"""The byte order mark of UTF-16, converted as if it were Latin-1."""


def refuse_what_is_not_text(name: str, head: bytes) -> None:
    """Raise a `BonsaiError` if a file's first bytes are not text in UTF-8: what it is, and how to make text of it."""
    for kind in KINDS:
        if head.startswith(kind.magic):
            raise BonsaiError(f"{name!r} is {kind.what}, where text in UTF-8 is needed. {_filled(kind.remedy, name)}")
    if _too_many(head.count(0), len(head)):
        raise BonsaiError(f"{name!r} is not text in UTF-8: {_why_nul(name, head)}")


def refuse_nul(name: str, num_nul: int, num_characters: int) -> None:
    """Raise a `BonsaiError` if too many of a text's characters are NUL."""
    if _too_many(num_nul, num_characters):
        raise BonsaiError(
            f"{name!r} is not text: {num_nul:,} of its {num_characters:,} characters are NUL. Was it converted from "
            "the wrong encoding (UTF-16 read as Latin-1, for instance)? Convert the original again."
        )


def not_utf8(name: str, file: BinaryIO, offset: int) -> BonsaiError:
    """The error for a file that cannot be decoded from `offset` on."""
    file.seek(max(0, offset - HEAD))
    before, bad, after = file.read(min(offset, HEAD)), file.read(1), file.read(HEAD)
    where = f"{name!r} is not UTF-8: byte {bad[0]:#04x} at offset {offset:,}."
    around = before + bad + after
    controls = len(around) - len(around.translate(None, _CONTROLS))
    if controls > CONTROL_FRACTION * len(around):
        return BonsaiError(f"{where} It looks like a binary file. Give its text, in UTF-8, as .txt or .jsonl.")
    if not before.isascii():
        remedy = "Before it, the file is UTF-8, so it is damaged. This drops what cannot be read: iconv -c -f utf-8"
    else:
        remedy = "Convert it, from Latin-1 for instance: iconv -f latin1"
    return BonsaiError(f"{where} {remedy} {_filled('-t utf-8 {file} > {plain}', name)}")


def _too_many(num_nul: int, num_characters: int) -> bool:
    return num_nul > NUL_FRACTION * num_characters


def _why_nul(name: str, head: bytes) -> str:
    if head.startswith(_READ_WRONGLY):
        return "it was UTF-16 and has been converted as if it were Latin-1. " + _filled(
            "Convert the original: iconv -f utf-16 -t utf-8 ORIGINAL > {file}", name
        )
    whole = head[: len(head) // 4 * 4]
    nul = [whole[place::4].count(0) * 4 / max(1, len(whole)) for place in range(4)]
    often = "".join("0" if fraction > 0.5 else "x" for fraction in nul)
    encodings = {"x0x0": "utf-16le", "0x0x": "utf-16be", "x000": "utf-32le", "000x": "utf-32be"}
    if often in encodings:
        encoding = encodings[often]
        return f"it looks like {encoding.upper()}. {_filled(_ICONV.format(encoding), name)}"
    return f"{head.count(0):,} of its first {len(head):,} bytes are NUL. Give its text as .txt or .jsonl."


def _filled(remedy: str, name: str) -> str:
    path = Path(name)
    plain = path.with_name(f"{path.stem}.utf8{path.suffix if path.suffix in ('.jsonl', '.json', '.md') else '.txt'}")
    unpacked = path.with_suffix("") if path.suffix in (".gz", ".zst", ".xz", ".bz2") else plain
    paths = {"file": path, "plain": plain, "unpacked": unpacked}
    return remedy.format(**{key: shlex.quote(str(value)) for key, value in paths.items()})
