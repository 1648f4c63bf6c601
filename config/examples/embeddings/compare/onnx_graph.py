"""Writes the model as an ONNX file that opens fast: weights transposed, graph optimised beforehand.

python onnx_graph.py MODEL_DIR OUT.onnx
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, LAYERS = 384, 12, 6


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the float32 tensors of a safetensors file."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + size])
    found = {}
    for name, entry in head.items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"])
    return found


class Graph:
    """Collects nodes and constants."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights, self.nodes, self.constants = weights, [], {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """Keep a constant once and return its name."""
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return the name of its output."""
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def linear(self, x: str, name: str) -> str:
        """Multiply by a weight and add its bias."""
        matrix = self.constant(f"{name}.w", self.weights[f"{name}.weight"].T)
        return self.op(
            "Add", self.op("MatMul", x, matrix), self.constant(f"{name}.b", self.weights[f"{name}.bias"])
        )

    def norm(self, x: str, name: str) -> str:
        """Normalise a layer."""
        scale = self.constant(f"{name}.s", self.weights[f"{name}.weight"])
        shift = self.constant(f"{name}.b", self.weights[f"{name}.bias"])
        return self.op("LayerNormalization", x, scale, shift, epsilon=1e-12)

    def heads(self, x: str, order: list[int]) -> str:
        """Split the hidden width into heads."""
        shape = self.constant("split", np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64))
        return self.op("Transpose", self.op("Reshape", x, shape), perm=order)

    def layer(self, x: str, mask: str, name: str) -> str:
        """Add one encoder layer."""
        query = self.heads(self.linear(x, f"{name}.attention.self.query"), [0, 2, 1, 3])
        key = self.heads(self.linear(x, f"{name}.attention.self.key"), [0, 2, 3, 1])
        value = self.heads(self.linear(x, f"{name}.attention.self.value"), [0, 2, 1, 3])
        root = self.constant("root", np.array((HIDDEN / HEADS) ** 0.5, np.float32))
        scores = self.op("Add", self.op("Div", self.op("MatMul", query, key), root), mask)
        mixed = self.op(
            "Transpose", self.op("MatMul", self.op("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3]
        )
        flat = self.op("Reshape", mixed, self.constant("join", np.array([0, 0, HIDDEN], np.int64)))
        attended = self.norm(
            self.op("Add", self.linear(flat, f"{name}.attention.output.dense"), x),
            f"{name}.attention.output.LayerNorm",
        )
        wide = self.op("Gelu", self.linear(attended, f"{name}.intermediate.dense"))
        narrow = self.op("Add", self.linear(wide, f"{name}.output.dense"), attended)
        return self.norm(narrow, f"{name}.output.LayerNorm")


def build(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model: token ids, positions and additive mask in, hidden states out."""
    graph = Graph(weights)
    words = graph.op("Gather", graph.constant("words", weights["embeddings.word_embeddings.weight"]), "ids")
    table = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = graph.op("Add", words, graph.op("Gather", graph.constant("places", table), "positions"))
    x = graph.norm(x, "embeddings.LayerNorm")
    for index in range(LAYERS):
        x = graph.layer(x, "mask", f"encoder.layer.{index}")
    ins = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"]),
        helper.make_tensor_value_info("positions", TensorProto.INT64, ["t"]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["b", 1, 1, "t"]),
    ]
    out = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["b", "t", HIDDEN])
    made = helper.make_graph(graph.nodes, "minilm", ins, [out], list(graph.constants.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def main() -> None:
    """Build, then let onnxruntime write down what it would make of it."""
    model_dir, out = Path(sys.argv[1]), sys.argv[2]
    options = ort.SessionOptions()
    options.optimized_model_filepath = out
    options.log_severity_level = 3
    model = build(tensors(model_dir / "model.safetensors")).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


main()
