"""Shows the demo's report on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from local_daemon import LocalDaemon

console = Console(highlight=False)

PHASES = {
    "image": "image (already here)",
    "reserve": "reserve a GPU",
    "create": "create the container",
    "start": "start the container",
    "ready": "the model's own start",
    "first_byte": "forward and compute",
}


def step(text: str) -> None:
    console.print(f"[dim]... {text}[/dim]")


def show(report: dict[str, Any]) -> None:
    console.print()
    _show_cold_start(report)
    _show_similarity(report)
    _show_workers(report)
    usage, gpus = report["usage"], report["gpus"]
    simulated = " (simulated)" if gpus["source"] == "static" else ""
    console.print(f"GPUs: {gpus['count']}, source {gpus['source']}{simulated}")
    console.print(
        f"Back at zero workers {report['returned_to_zero_s']:.1f} s after the last answer. "
        f"Bill: {usage['gpu_ms']} GPU-milliseconds, {usage['billed_s']} billed seconds, "
        f"{usage['cost']:.6f} {usage['currency']}.",
        soft_wrap=True,
    )
    console.print()


def show_address(daemon: LocalDaemon) -> None:
    console.print(f"gpud runs on at {daemon.url}")
    console.print(f"  key      {daemon.key}", soft_wrap=True)
    console.print(f"  try      curl -H 'Authorization: Bearer {daemon.key}' \\", soft_wrap=True)
    console.print(f"             {daemon.url}/e/embeddings/v1/embeddings \\", soft_wrap=True)
    console.print("""             -d '{"model": "all-MiniLM-L6-v2", "input": "hello"}'""", soft_wrap=True)
    socket = daemon.run_dir / "api.sock"
    console.print(f"  browse   {daemon.url}/ (sign in with the key)", soft_wrap=True)
    console.print(f"  look     GPUD_SOCKET={socket} .venv/bin/gpud endpoint ls", soft_wrap=True)
    console.print(f"  stop     {daemon.stop_command}")


def _table(title: str) -> Table:
    console.print(f"[bold]{title}[/bold]")
    return Table(box=None, header_style="dim", padding=(0, 2, 0, 0))


def _show_cold_start(report: dict[str, Any]) -> None:
    cold, warm = report["cold_start_ms"], report["warm_ms"]
    table = _table("Cold start: the first request, from zero workers")
    table.add_column("phase")
    table.add_column("ms", justify="right")
    for name, words in PHASES.items():
        table.add_row(words, f"{cold[name]:.1f}")
    table.add_row("[bold]request to answer[/bold]", f"[bold]{cold['total']:.1f}[/bold]")
    table.add_row("warm request, median", f"{warm['p50']:.1f}")
    table.add_row("warm request, 99th percentile", f"{warm['p99']:.1f}")
    console.print(table)
    console.print()


def _show_similarity(report: dict[str, Any]) -> None:
    table = _table("What the model says")
    table.add_column("one sentence")
    table.add_column("another")
    table.add_column("cosine", justify="right")
    for pair in report["similarity"]:
        table.add_row(pair["a"], pair["b"], f"{pair['cosine']:.4f}")
    console.print(table)
    console.print()


def _show_workers(report: dict[str, Any]) -> None:
    burst = report["burst"]
    answered = f"{burst['ok']} of {burst['requests']} requests answered in {burst['seconds']:.2f} s"
    table = _table(f"Burst: {answered}")
    table.add_column("worker")
    table.add_column("GPU")
    for words in ("requests served", "GPU ms", "billed s"):
        table.add_column(words, justify="right")
    for worker in report["workers"]:
        table.add_row(
            worker["id"],
            ", ".join(worker["gpu_uuids"]),
            str(worker["requests"]),
            str(worker["gpu_ms"]),
            str(worker["billed_s"]),
        )
    console.print(table)
    console.print()
