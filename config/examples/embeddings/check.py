"""Refuses to make an image whose weights or vectors are not the model's own; run while the image is built."""

import sys
from pathlib import Path

from minilm import connection, server, service, weights

MODEL_DIR = Path(__file__).parent / "model"
SENTENCE = "A cat sits on the mat."
# From torch 2.13.0 and transformers, as in tests/unit/examples/test_embeddings_reference.json.
EXPECTED = (0.12653522, -0.03285073, -0.02905959, 0.04440702, -0.04344529, 0.03209693, 0.04811110, 0.02767508)
ERROR_MAX = 1e-5


def main() -> None:
    """Check the checksum, load, compute one sentence, compare."""
    weights.check(MODEL_DIR / "model.safetensors")
    loaded = service.Service(MODEL_DIR, server.Boot())
    vectors, _ = loaded.embed([SENTENCE], wanted=lambda: True)
    error = max(abs(float(got) - want) for got, want in zip(vectors[0], EXPECTED, strict=False))
    if error > ERROR_MAX:
        sys.exit(
            f"the vector of {SENTENCE!r} is off by {error:.2e}, more than {ERROR_MAX}; not making this image"
        )
    print(f"weights checked, largest error {error:.1e}, routes {', '.join(connection.ROUTES)}")


main()
