"""Writes the model as a float32 GGUF file for llama.cpp: the same tensors under its names.

python gguf_file.py MODEL_DIR OUT.gguf
"""

import json
import struct
import sys
from pathlib import Path

import gguf
import numpy as np

NAMES = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
}
PARTS = {
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def name_of(name: str) -> str | None:
    """Return llama.cpp's name of a tensor, or None if it has no use for it."""
    if name in NAMES:
        return NAMES[name]
    stem, _, kind = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        number, _, part = stem.removeprefix("encoder.layer.").partition(".")
        return f"blk.{number}.{PARTS[part]}.{kind}"
    return f"{PARTS[stem]}.{kind}" if stem in PARTS else None


def main() -> None:
    """Write settings, vocabulary and tensors."""
    model_dir, out = Path(sys.argv[1]), sys.argv[2]
    writer = gguf.GGUFWriter(out, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    writer.add_feed_forward_length(1536)
    writer.add_block_count(6)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokens = (model_dir / "vocab.txt").read_text().removesuffix("\n").split("\n")
    marked = [
        t[2:] if t.startswith("##") else t if t.startswith("[") and len(t) > 1 else "\u2581" + t
        for t in tokens
    ]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(marked)
    writer.add_token_types([3 if t.startswith("[") and len(t) > 1 else 1 for t in tokens])
    writer.add_token_type_count(2)
    for role, token in (
        ("bos", "[CLS]"),
        ("eos", "[SEP]"),
        ("sep", "[SEP]"),
        ("pad", "[PAD]"),
        ("unk", "[UNK]"),
    ):
        getattr(writer, f"add_{role}_token_id")(tokens.index(token))
    raw = (model_dir / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        wanted = name_of(name)
        if wanted and entry.get("dtype") == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            writer.add_tensor(wanted, np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
