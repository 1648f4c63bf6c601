# ruff: noqa: PLC0415, ANN401 - importing late is what is measured, and each library returns its own arrays
"""One runtime, from process start to vectors; prints its figures as JSON. Started by compare.py.

python candidates.py NAME MODEL_DIR ONNX_FILE GGUF_FILE REFERENCE_JSON ROUNDS
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 1
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)
Embed = Callable[[list[str]], Any]


def numpy_wordpiece(model_dir: Path, *_: Path) -> Embed:
    """What the image runs."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from minilm.weights import Weights

    weights = Weights(model_dir / "model.safetensors")
    from minilm.encoder import Encoder
    from minilm.wordpiece import WordPiece

    encoder, tokens = Encoder(weights), WordPiece(model_dir / "vocab.txt", tokens_max=256)
    return lambda texts: encoder.embed([tokens.encode(text) for text in texts])


def numpy_tokenizers(model_dir: Path, *_: Path) -> Embed:
    """The same encoder behind the tokenizers library."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from minilm.weights import Weights

    weights = Weights(model_dir / "model.safetensors")
    from minilm.encoder import Encoder
    from tokenizers import Tokenizer

    encoder, tokens = Encoder(weights), Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokens.no_padding()
    tokens.enable_truncation(256)
    return lambda texts: encoder.embed([found.ids for found in tokens.encode_batch(texts)])


def onnxruntime(model_dir: Path, onnx_file: Path, _: Path) -> Embed:
    """Onnxruntime on a graph optimised beforehand, behind the tokenizers library."""
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
    tokens = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokens.enable_padding()
    tokens.enable_truncation(256)

    def embed(texts: list[str]) -> Any:
        found = tokens.encode_batch(texts)
        keep = np.array([one.attention_mask for one in found], np.float32)
        ids = np.array([one.ids for one in found], np.int64)
        mask = ((1 - keep) * np.float32(-1e9))[:, None, None, :]
        (hidden,) = session.run(None, {"ids": ids, "positions": np.arange(ids.shape[1]), "mask": mask})
        pooled = (hidden * keep[:, :, None]).sum(1) / keep.sum(1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return embed


def ggml(_: Path, __: Path, gguf_file: Path) -> Embed:
    """llama.cpp in-process (xllamacpp), its own tokenizer."""
    import xllamacpp as xl

    params = xl.CommonParams()
    params.model.path = str(gguf_file)
    params.embedding = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.n_ctx = params.n_batch = params.n_ubatch = 4096
    params.n_parallel = 16
    params.warmup = False
    params.verbosity = 0
    params.pooling_type = xl.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xl.Server(params)

    def embed(texts: list[str]) -> Any:
        answer = server.handle_embeddings({"input": texts, "model": "m"})
        answer = json.loads(answer) if isinstance(answer, str) else answer
        return [row["embedding"] for row in answer["data"]]

    return embed


def median_ms(embed: Embed, texts: list[str], rounds: int) -> float:
    """Return the median time of one call."""
    took = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        embed(texts)
        took.append(time.perf_counter() - began_s)
    return sorted(took)[rounds // 2] * 1000


def main() -> None:
    """Load, answer once, say when, then measure."""
    name, *paths, rounds = sys.argv[1:]
    model_dir, onnx_file, gguf_file, reference_file = map(Path, paths)
    embed = globals()[name](model_dir, onnx_file, gguf_file)
    embed(["A cat sits on the mat."])
    began_s = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
        "SC_CLK_TCK"
    )
    figures = {"first_answer_ms": (time.clock_gettime(time.CLOCK_BOOTTIME) - began_s) * 1000}
    if int(rounds):
        reference = json.loads(reference_file.read_text())
        texts = [
            text for text in reference["sentences"] if len(text) < 1000
        ]  # llama.cpp does not cut long ones
        got = [[float(x) for x in row] for row in embed(texts)]
        cosines = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in got] for x in got]
        figures["cosine_error_max"] = max(
            abs(cosines[i][j] - reference["cosines"][i][j])
            for i in range(len(texts))
            for j in range(len(texts))
        )
        figures["one_ms"] = median_ms(embed, texts[:1], int(rounds))
        figures["sixteen_ms"] = median_ms(embed, (texts[:3] * 6)[:16], int(rounds))
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        figures["rss_mib"] = int(status["VmRSS"].split()[0]) / 1024
        figures["rss_own_mib"] = int(status["RssAnon"].split()[0]) / 1024
    print(json.dumps(figures), flush=True)
    os._exit(0)


main()
