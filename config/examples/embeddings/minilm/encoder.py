"""Which vectors belong to these token ids: six BERT layers, mean pooling, unit length.

Sentences of a batch are laid end to end without padding, so a short one costs nothing for standing
next to a long one, and no masks are needed.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from minilm.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

HIDDEN = 384
LAYERS = 6
HEADS = 12
TOKENS_MAX = 256
"""The model's published settings cut longer texts here."""

_HEAD_WIDTH = HIDDEN // HEADS
_EPSILON = np.float32(1e-12)
_GELU_ROWS = 64
"""Rows of the wide layer worked on at once, so that every pass stays in the processor's cache."""

# Abramowitz and Stegun 7.1.26: erf within 1.5e-7, on the scale of float32's own rounding.
_ERF_P = np.float32(0.3275911)
_ERF_A = [np.float32(a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]


class Encoder:
    """The model, ready to compute; holds views into the mapped weights.

    Args:
        weights: The mapped file; must outlive the encoder.
    """

    def __init__(self, weights: Weights) -> None:
        self._words = _view(weights, "embeddings.word_embeddings.weight")
        segment = _view(weights, "embeddings.token_type_embeddings.weight")[0]
        self._places = _view(weights, "embeddings.position_embeddings.weight")[:TOKENS_MAX] + segment
        self._norm = _Norm(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{index}") for index in range(LAYERS)]

    def embed(self, sentences: Sequence[Sequence[int]]) -> "Floats":
        """Return one unit vector a sentence.

        Args:
            sentences: Token ids, each list between 1 and `TOKENS_MAX` long.
        """
        lengths = [len(ids) for ids in sentences]
        ends = np.cumsum(lengths).tolist()
        spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        hidden = self._words[np.concatenate([np.asarray(ids, dtype=np.intp) for ids in sentences])]
        for span, length in zip(spans, lengths, strict=True):
            hidden[span] += self._places[:length]
        hidden = self._norm(hidden)
        for layer in self._layers:
            hidden = layer(hidden, spans)
        pooled = np.stack([hidden[span].mean(axis=0) for span in spans])
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(norms, _EPSILON), dtype=np.float32)


class _Linear:
    def __init__(self, weights: Weights, name: str) -> None:
        self._matrix = _view(weights, f"{name}.weight").T
        self._bias = _view(weights, f"{name}.bias")

    def __call__(self, x: "Floats") -> "Floats":
        y: Floats = x @ self._matrix
        y += self._bias
        return y


class _Norm:
    def __init__(self, weights: Weights, name: str) -> None:
        self._scale = _view(weights, f"{name}.weight")
        self._shift = _view(weights, f"{name}.bias")

    def __call__(self, x: "Floats") -> "Floats":
        """Normalise in place and return the same array."""
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(HIDDEN)
        x *= np.float32(1) / np.sqrt(variance + _EPSILON)
        x *= self._scale
        x += self._shift
        return x


class _Layer:
    def __init__(self, weights: Weights, name: str) -> None:
        self._query = _Linear(weights, f"{name}.attention.self.query")
        self._key = _Linear(weights, f"{name}.attention.self.key")
        self._value = _Linear(weights, f"{name}.attention.self.value")
        self._mix = _Linear(weights, f"{name}.attention.output.dense")
        self._mix_norm = _Norm(weights, f"{name}.attention.output.LayerNorm")
        self._widen = _Linear(weights, f"{name}.intermediate.dense")
        self._narrow = _Linear(weights, f"{name}.output.dense")
        self._narrow_norm = _Norm(weights, f"{name}.output.LayerNorm")

    def __call__(self, x: "Floats", spans: Sequence[slice]) -> "Floats":
        mixed = self._mix(self._attend(x, spans))
        mixed += x
        mixed = self._mix_norm(mixed)
        wide = self._widen(mixed)
        for begin in range(0, len(wide), _GELU_ROWS):
            _gelu(wide[begin : begin + _GELU_ROWS])
        narrow = self._narrow(wide)
        narrow += mixed
        return self._narrow_norm(narrow)

    def _attend(self, x: "Floats", spans: Sequence[slice]) -> "Floats":
        query, key, value = self._query(x), self._key(x), self._value(x)
        query *= np.float32(1 / math.sqrt(_HEAD_WIDTH))
        out = np.empty_like(x)
        for span in spans:
            scores = _heads(query[span]) @ _heads(key[span]).transpose(0, 2, 1)
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            _heads(out[span])[...] = scores @ _heads(value[span])
        return out


def _heads(x: "Floats") -> "Floats":
    """View (tokens, hidden) as (heads, tokens, width)."""
    return x.reshape(len(x), HEADS, _HEAD_WIDTH).transpose(1, 0, 2)


def _gelu(x: "Floats") -> None:
    """Replace x by x * (1 + erf(x / sqrt(2))) / 2."""
    scaled = np.abs(x)
    scaled *= np.float32(math.sqrt(0.5))
    t = scaled * _ERF_P
    t += np.float32(1)
    np.reciprocal(t, out=t)
    series = t * _ERF_A[0]
    for coefficient in _ERF_A[1:]:
        series += coefficient
        series *= t
    np.square(scaled, out=scaled)
    np.negative(scaled, out=scaled)
    np.exp(scaled, out=scaled)
    series *= scaled  # now 1 - erf(|x| / sqrt(2))
    np.subtract(np.float32(1), series, out=series)
    np.copysign(series, x, out=series)
    series += np.float32(1)
    series *= np.float32(0.5)
    x *= series


def _view(weights: Weights, name: str) -> "Floats":
    tensor = weights[name]
    flat = np.frombuffer(
        weights.mapped, dtype="<f4", count=math.prod(tensor.shape), offset=tensor.offset_bytes
    )
    return flat.reshape(tensor.shape)
