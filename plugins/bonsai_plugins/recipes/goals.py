"""Our own recipes by goal and by machine. None of them says how much: that is the user's choice, 20 % by default."""

from bonsai_core import Recipe

GROUP = "By goal and machine"

LAPTOP = Recipe(
    name="laptop",
    group=GROUP,
    summary="A small model on a laptop's CPU: fewer sub-models, less memory.",
    settings={"submodels": 24, "batch_tokens": 16_384},
    cost="0.3 of the default's tokens for sub-models",
    source="The default with 24 of its 80 sub-models a round, and a quarter of the tokens that go through together.",
)
GPU24 = Recipe(
    name="gpu24",
    group=GROUP,
    summary="A model of 7 to 13 billion parameters on one GPU of 24 GB.",
    settings={"dtype": "bfloat16", "device_map": "auto", "max_memory": "0=14GiB,cpu=48GiB"},
    cost="14 GiB of weights on the GPU, others in main memory",
    gives="the default's result, of models that do not fit",
    source=(
        "A layer of LLaMA-3-8B takes 6.6 GB while it is repaired (four float64 copies of the second moments of 14,336 "
        "channels), and the text and the lanes 1.6 GB at 4,096 channels in bfloat16. Latency is not timed."
    ),
)
OVERNIGHT = Recipe(
    name="overnight",
    group=GROUP,
    summary="Quality first: more text and sub-models, then recovery by training.",
    settings={"prior_samples": 512, "submodels": 160, "eval_rounds": True, "adapt": "lora"},
    cost="as much as quality, then training on all of the text",
    gives="perplexity from 85.4 to 44.6 by the training (50 %)",
    measured=(
        "Not as a whole. SmolLM2-135M-Instruct pruned by the default to 50 %, then trained with all its weights on "
        "250,880 tokens of WikiText-2 for 14 minutes: 85.4 to 44.6 (dense: 25.9), bfloat16, 2 CPU cores, seed 0, one "
        "run, 2026-11-26 (benchmarks/README.md). Answers to questions did not improve on a text this narrow."
    ),
    source="The recipe quality, then the adaptation lora. Give it broad text: --dataset c4, or your own.",
)
VLLM = Recipe(
    name="vllm",
    group=GROUP,
    summary="To serve in vLLM: shapes that it takes, exported at the end.",
    settings={"runtimes": ["vllm"], "round_to": "gpu"},
    cost="as much as the default",
    gives="prefill 1.7, decoding 1.6 times as fast (50 %)",
    measured=(
        "SmolLM2-135M-Instruct, half of its decoder removed as MLP channels (--units mlp --round-to 32), vLLM 0.32.0 "
        "on 2 CPU cores, one sequence, float32, seed 0, 2026-11-28: prefill of 128 and 512 tokens 1.82 and 1.70 times "
        "as fast, decoding 1.66 and 1.59 (benchmarks/README.md)."
    ),
    source="Families and commands: docs/runtimes.md. On a GPU it has not been run.",
)
GGUF = Recipe(
    name="gguf",
    group=GROUP,
    summary="For llama.cpp, Ollama and LM Studio: whole blocks, Q4_K_M at the end.",
    settings={"runtimes": ["llama.cpp:q4_k_m"]},
    cost="as much as the default, and llama.cpp's tools",
    gives="a file of 0.67 times the dense one's size (50 %)",
    measured=(
        "SmolLM2-135M-Instruct to 50 % (--round-to 32), in Q4_K_M: 105.5 to 70.4 MB. Quantising to it cost 8 % in "
        "perplexity, and the dense model 6 %; cyllama 0.2.18, one thread, seed 0, 2026-11-28 (docs/runtimes.md)."
    ),
    source="Rows of whole blocks of 32 or 256 weights, as its quantised types store them: docs/runtimes.md.",
)
MOE = Recipe(
    name="moe",
    group=GROUP,
    summary="A mixture's whole experts, more from layers that miss them less.",
    settings={"units": ["experts"]},
    cost="as much as the default",
    gives="8 % less perplexity than REAP (32 % gone)",
    measured=(
        "A Mixtral of 4 layers with 8 experts each, trained from scratch for 2.5 minutes: 58.3 dense, 77.6, and 84.1 "
        "by REAP with the same number from every layer; seed 0, 2 CPU cores, 2026-11-28 (benchmarks/README.md)."
    ),
    source="The default on experts alone: obs for the order, a regression between the layers.",
)
