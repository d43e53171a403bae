"""Quantises a GGUF file through the package cyllama, in a process of its own, as llama-quantize does.

    python llama_cpp_quantize.py FILE QUANTISED TYPE

TYPE is a number, of `llama_ftype` in llama.cpp's include/llama.h.
"""

import sys

from cyllama.llama import llama_cpp

params = llama_cpp.LlamaModelQuantizeParams()
params.ftype = int(sys.argv[3])
llama_cpp.model_quantize(*sys.argv[1:3], params)
