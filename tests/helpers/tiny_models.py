"""Tiny random language models of many architectures, built from configurations alone."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY = 64
LAYERS = 3
D_MODEL = 32
_LLAMA_LIKE = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_FALCON = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "bias": False,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Expected:
    """What the library should find in a tiny model."""

    d_hidden: int
    activation: str
    glu: bool
    boundary: str = "module"


@dataclass(frozen=True)
class _Recipe:
    family: str
    config: dict[str, Any]
    expected: Expected


_GLU = Expected(48, "silu", True)
_GEMMA = Expected(48, "gelu_pytorch_tanh", True)
_RECIPES = {
    "gpt2": _Recipe(
        "GPT2LMHead",
        {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
        Expected(128, "gelu_new", False),
    ),
    "gpt_neox": _Recipe(
        "GPTNeoX",
        {**_LLAMA_LIKE, "hidden_act": "gelu", "intermediate_size": 80},
        Expected(80, "gelu", False),
    ),
    "llama": _Recipe("Llama", _LLAMA_LIKE, _GLU),
    "qwen2": _Recipe("Qwen2", _LLAMA_LIKE, _GLU),
    "qwen3": _Recipe("Qwen3", _LLAMA_LIKE, _GLU),
    "gemma": _Recipe("Gemma", _LLAMA_LIKE, _GEMMA),
    "gemma2": _Recipe("Gemma2", _LLAMA_LIKE, _GEMMA),
    "gemma3": _Recipe("Gemma3", _LLAMA_LIKE, _GEMMA),
    "mistral": _Recipe("Mistral", _LLAMA_LIKE, _GLU),
    "phi": _Recipe(
        "Phi",
        {**_LLAMA_LIKE, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
        Expected(48, "gelu_new", False),
    ),
    "phi3": _Recipe("Phi3", {**_LLAMA_LIKE, "pad_token_id": 0}, _GLU),
    # As many heads as make the fused q, k, v of attention the shape of a fused gate and up.
    "phi3_square": _Recipe(
        "Phi3",
        {**_LLAMA_LIKE, "intermediate_size": D_MODEL, "pad_token_id": 0},
        Expected(D_MODEL, "silu", True),
    ),
    "opt": _Recipe(
        "OPT",
        {
            "hidden_size": D_MODEL,
            "ffn_dim": 72,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": D_MODEL,
        },
        Expected(72, "relu", False, "split"),
    ),
    "falcon": _Recipe("Falcon", {**_FALCON, "parallel_attn": False}, Expected(128, "gelu", False)),
    "falcon_parallel": _Recipe(
        "Falcon", {**_FALCON, "parallel_attn": True}, Expected(128, "gelu", False)
    ),
    "falcon_new": _Recipe(
        "Falcon",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        Expected(128, "gelu", False),
    ),
    "gptj": _Recipe(
        "GPTJ",
        {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
        Expected(128, "gelu_new", False),
    ),
    "bloom": _Recipe(
        "Bloom",
        {"hidden_size": D_MODEL, "n_layer": LAYERS, "n_head": 4},
        Expected(128, "gelu_new", False, "residual"),
    ),
    "mpt": _Recipe(
        "Mpt",
        {"d_model": D_MODEL, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 64},
        Expected(128, "gelu", False, "residual"),
    ),
    "mixtral": _Recipe("Mixtral", {**_LLAMA_LIKE, **_EXPERTS}, _GLU),
    "deepseek": _Recipe(
        "DeepseekV3",
        {
            **{key: value for key, value in _LLAMA_LIKE.items() if key != "head_dim"},
            "num_key_value_heads": 4,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
        _GLU,
    ),
}
MIXTURES = ("mixtral", "deepseek")
"""Architectures with mixtures of experts: Mixtral in every block, DeepSeek in the last only."""
ARCHITECTURES = [arch for arch in _RECIPES if arch not in MIXTURES]
"""Architectures with a dense MLP in every block."""


def tiny_model(arch: str, *, seed: int = 0) -> nn.Module:
    """A random model of three blocks, width 32 and 64 tokens, in evaluation mode.

    Weights are larger than at initialisation and biases are not zero, so that nothing that a test
    compares is negligible.
    """
    recipe = _RECIPES[arch]
    family = recipe.family.removesuffix("LMHead")
    config = getattr(transformers, _config_name(family))(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=None, **recipe.config
    )
    head = recipe.family if recipe.family.endswith("LMHead") else f"{family}ForCausalLM"
    model_class = getattr(transformers, head if head != recipe.family else f"{head}Model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def expected(arch: str) -> Expected:
    """What the library should find in `tiny_model(arch)`."""
    return _RECIPES[arch].expected


def tiny_tokens(batch: int = 2, sequence: int = 6) -> torch.Tensor:
    """Fixed token ids (batch, sequence) that differ within a row and between rows."""
    return torch.arange(batch * sequence).mul(7).add(3).remainder(VOCABULARY).reshape(batch, -1)


def _config_name(family: str) -> str:
    return f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
