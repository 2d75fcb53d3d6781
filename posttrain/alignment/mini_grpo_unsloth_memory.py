"""Does the run fit? A sum made before the download, and the peak afterwards.

    plan = memory_plan(PRESETS["t4"], QWEN_1_5B)    # {"weights in 4 bit": bytes, ...}
    sum(plan.values()) / 2**30

The plan counts what is large. It leaves out the CUDA context (about half a GiB), what
the allocator keeps back and the insides of the one layer that is computed again.
"""

from __future__ import annotations

import resource
import sys

import torch

from posttrain.alignment.mini_grpo_unsloth import PROJECTIONS, Settings

# config.json of Qwen/Qwen2.5-1.5B-Instruct
QWEN_1_5B = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
T4_BYTES = 15 * 2**30  # what a free T4 has left for a program
# NF4: 4 bits; an 8-bit scale a block of 64; a 32-bit scale of 256 scales
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


def projection_shapes(sizes: dict) -> dict[str, tuple[int, int]]:
    """(out, in) of each projection of one layer."""
    C, F = sizes["hidden_size"], sizes["intermediate_size"]
    D = C // sizes["num_attention_heads"]
    kv = sizes["num_key_value_heads"] * D
    return {
        "q_proj": (C, C),
        "k_proj": (kv, C),
        "v_proj": (kv, C),
        "o_proj": (C, C),
        "gate_proj": (F, C),
        "up_proj": (F, C),
        "down_proj": (C, F),
    }


def memory_plan(settings: Settings, sizes: dict) -> dict[str, int]:
    """Bytes by purpose, in the 16-bit arithmetic of a GPU. sizes: as QWEN_1_5B."""
    L, V, C = sizes["num_hidden_layers"], sizes["vocab_size"], sizes["hidden_size"]
    shapes = projection_shapes(sizes)
    linear = L * sum(out * inn for out, inn in shapes.values())
    adapters = L * settings.rank * sum(sum(shapes[name]) for name in PROJECTIONS)
    kv = shapes["k_proj"][0]
    answers = settings.prompts * settings.group  # generated all at once
    B, T = settings.batch, settings.max_length
    moments = 2 if settings.optimizer.endswith("8bit") else 8
    tables = V * C * (1 if sizes["tie_word_embeddings"] else 2)
    kind = "4 bit" if settings.four_bit else "16 bit"
    return {
        f"weights in {kind}": round(linear * (NF4_BYTES if settings.four_bit else 2)),
        "embeddings": 2 * tables,
        "adapters, gradients, moments": adapters * (4 + 4 + moments),
        "KV cache while answering": 2 * L * kv * T * answers * 2,
        # fp32, and their gradient
        "logits of one batch": B * settings.max_new * V * (4 + 4),
        "input of every layer": L * B * T * C * 2,
    }


def peak_memory() -> tuple[float, str]:
    """The most that this process has used so far, in GiB, and of what."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30, "GPU memory"
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak / 2**30, "main memory"
