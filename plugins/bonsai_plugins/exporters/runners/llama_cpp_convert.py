"""Runs llama.cpp's own converter of checkpoints, in a process of its own.

    python llama_cpp_convert.py CONVERTER PRE_TOKENIZER [ARGUMENTS OF THE CONVERTER]

CONVERTER is llama.cpp's convert_hf_to_gguf.py. It learns how a tokenizer splits words from a hash of what it does to a
sample text, and has no option to say it. PRE_TOKENIZER says it, by llama.cpp's name; "" leaves it to the hash.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the converter as a module, and call it as its command line would."""
    file, pre_tokenizer, *arguments = sys.argv[1:]
    sys.path[0] = str(Path(file).parent)  # its packages are beside it, also its own release of `gguf`
    sys.argv = [file, *arguments]
    spec = importlib.util.spec_from_file_location("convert_hf_to_gguf", file)
    assert spec is not None
    assert spec.loader is not None
    converter: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    if pre_tokenizer:
        for holder in _classes_with("get_vocab_base_pre"):
            holder.get_vocab_base_pre = lambda self, tokenizer: pre_tokenizer
    converter.main()


def _classes_with(method: str) -> list[Any]:
    """The classes of the converter that have a method: which module has them differs between releases."""
    modules = [module for name, module in [*sys.modules.items()] if name.startswith(("conversion", "convert_hf_to_"))]
    held = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    found = [cls for cls in held if method in vars(cls)]
    if not found:
        raise SystemExit(
            f"This release of llama.cpp's converter has no {method}, so the pre-tokenizer cannot be named."
        )
    return found


if __name__ == "__main__":
    main()
