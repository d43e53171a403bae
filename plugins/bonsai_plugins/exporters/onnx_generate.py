"""Continues a text: python generate.py "The history of the bicycle"

Bonsai puts this file beside an ONNX graph. It needs onnxruntime, numpy and tokenizers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
MOST_TOKENS = 64


def main() -> None:
    """Print the text with the likeliest tokens after it, until the model ends it."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    session = onnxruntime.InferenceSession(HERE / "model.onnx")
    cache = [given for given in session.get_inputs() if given.name.startswith("past_key_values.")]
    past = {given.name: np.zeros((1, given.shape[1], 0, given.shape[3]), np.float32) for given in cache}
    tokens = new = tokenizer.encode(sys.argv[1]).ids
    ends = _ends()
    for _ in range(MOST_TOKENS):
        attended = np.ones((1, len(tokens)), np.int64)
        logits, *present = session.run(None, {"input_ids": np.array([new]), "attention_mask": attended, **past})
        token = int(logits[0, -1].argmax())
        if token in ends:
            break
        tokens = [*tokens, token]
        new = [token] if cache else tokens
        past = dict(zip(past, present, strict=True))
    print(tokenizer.decode(tokens))


def _ends() -> list[int]:
    """The tokens that end a text."""
    for name in ("generation_config.json", "config.json"):
        file = HERE / name
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            return ends if isinstance(ends, list) else [ends]
    return []


if __name__ == "__main__":
    main()
