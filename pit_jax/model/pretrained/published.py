"""Architectures of published checkpoints, from their config.json, for plans without their folders."""

from pit_jax.architecture import TransformerConfig

_LLAMA_3 = TransformerConfig(
    query_heads=32,
    kv_heads=8,
    head_size=128,
    activation="swiglu",
    tied=False,
    vocab_rows=128_256,
    rope_theta=500_000.0,
    embedding_scale=False,
    norm_eps=1e-5,
    width=4096,
    layers=32,
    ffn=14_336,
)

PUBLISHED = {
    # huggingface.co/google/gemma-2b: 2,506,172,416 parameters
    "gemma-2b": TransformerConfig(
        width=2048,
        layers=18,
        query_heads=8,
        kv_heads=1,
        head_size=256,
        ffn=16_384,
        activation="geglu",
        vocab_rows=256_000,
        norm_offset=1.0,
    ),
    # huggingface.co/meta-llama/Meta-Llama-3-8B: 8,030,261,248 parameters
    "llama-3-8b": _LLAMA_3,
    # huggingface.co/meta-llama/Meta-Llama-3-70B: 70,553,706,496 parameters
    "llama-3-70b": TransformerConfig(
        **{**vars(_LLAMA_3), "width": 8192, "layers": 80, "query_heads": 64, "ffn": 28_672},
    ),
}
