"""Quantises a GGUF file through the package cyllama, in a process of its own, as llama-quantize does.

python llama_cpp_quantize.py FILE QUANTISED TYPE
"""

import sys

from cyllama.llama import llama_cpp

# `llama_ftype` in llama.cpp's include/llama.h, which numbers are never given twice.
TYPES = {
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
}

file, quantised, kind = sys.argv[1:]
params = llama_cpp.LlamaModelQuantizeParams()
params.ftype = TYPES[kind]
llama_cpp.model_quantize(file, quantised, params)
