"""The main job, shown: deploy the demo model, call it, let it scale and sleep, and read the bill."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
import show
from local_daemon import LocalDaemon

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "config/examples/embeddings/endpoint.toml"
PATH = "/e/embeddings/v1/embeddings"
WARM_REQUESTS = 50
BURST_REQUESTS = 24
BURST_SENTENCES = 160
"""Sentences in one burst request: enough work that three workers have time to share it."""
SENTENCES = (
    "A cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "The stock market fell sharply today.",
)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--listen", default="127.0.0.1:8700")
    options = parser.parse_args()
    daemon = LocalDaemon(ROOT, options.listen)
    await daemon.ensure()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            report = await Demo(daemon, session).run()
        show.show(report)
        if options.report:
            options.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            print(f"The same as JSON: {options.report}")
    finally:
        if options.once:
            await daemon.stop_and_clean()
    if not options.once:
        show.show_address(daemon)
    return 0 if report["burst"]["ok"] == report["burst"]["requests"] else 1


class Demo:
    """One run against a running daemon."""

    def __init__(self, daemon: LocalDaemon, session: aiohttp.ClientSession) -> None:
        self._daemon = daemon
        self._session = session
        self._served: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        await self._deploy_asleep()
        began_ms = int(time.time() * 1000)
        show.step("First request, to a sleeping endpoint")
        cold_start = await self._cold_start()
        show.step(f"{WARM_REQUESTS} requests to the warm worker")
        warm = await self._warm()
        similarity = await self._similarity()
        show.step(f"{BURST_REQUESTS} requests at once")
        burst = await self._burst()
        gpu_of = {worker["id"]: worker["gpu_uuids"] for worker in await self._workers()}
        show.step("Waiting for the return to zero")
        returned_s = await self._returned_to_zero()
        usage = await self._daemon.get(f"/v1/usage?by=worker&endpoint=embeddings&since={_rfc3339(began_ms)}")
        by_worker = {line["key"]: line for line in usage["items"]}
        gpus = (await self._daemon.get("/v1/gpus"))["items"]
        status = await self._daemon.get("/v1/system")
        return {
            "cold_start_ms": cold_start,
            "warm_ms": warm,
            "similarity": similarity,
            "burst": burst,
            "workers": [
                {
                    "id": worker,
                    "gpu_uuids": gpu_of.get(worker, []),
                    "requests": self._served.get(worker, 0),
                    "gpu_ms": line["gpu_ms"],
                    "billed_s": line["billed_s"],
                }
                for worker, line in sorted(by_worker.items(), key=lambda item: -self._served.get(item[0], 0))
            ],
            "returned_to_zero_s": returned_s,
            "usage": {
                "gpu_ms": usage["total"]["gpu_ms"],
                "billed_s": usage["total"]["billed_s"],
                "cost": round(usage["total"]["cost_micros"] / 1e6, 6),
                "currency": usage["currency"],
            },
            "gpus": {"source": status["gpu_source"], "count": len(gpus)},
        }

    async def _deploy_asleep(self) -> None:
        spec = tomllib.loads(SPEC.read_text(encoding="utf-8"))
        await self._daemon.put("/v1/endpoints/embeddings", spec)
        await self._returned_to_zero()

    async def _cold_start(self) -> dict[str, float]:
        began_s = time.perf_counter()
        worker = await self._embed(SENTENCES[0])
        total = (time.perf_counter() - began_s) * 1000
        events = await self._daemon.get(f"/v1/events?worker={worker}&limit=200")
        facts = next(e["facts"] for e in events["items"] if e["kind"] == "worker.ready")
        phases = {
            name: float(facts[f"{name}_ms"]) for name in ("image", "reserve", "create", "start", "ready")
        }
        phases["first_byte"] = max(total - sum(phases.values()), 0.0)
        return {"total": round(total, 1)} | {name: round(ms, 1) for name, ms in phases.items()}

    async def _warm(self) -> dict[str, float]:
        took_ms = []
        for _ in range(WARM_REQUESTS):
            began_s = time.perf_counter()
            await self._embed(SENTENCES[0])
            took_ms.append((time.perf_counter() - began_s) * 1000)
        took_ms.sort()
        p99 = took_ms[min(math.ceil(0.99 * len(took_ms)) - 1, len(took_ms) - 1)]
        return {"p50": round(statistics.median(took_ms), 1), "p99": round(p99, 1)}

    async def _similarity(self) -> list[dict[str, Any]]:
        body = {"model": "all-MiniLM-L6-v2", "input": list(SENTENCES)}
        async with self._post(body) as answer:
            answer.raise_for_status()
            self._count(answer)
            vectors = [row["embedding"] for row in (await answer.json())["data"]]
        pairs = [(0, 1), (0, 2), (1, 2)]
        return [
            {"a": SENTENCES[a], "b": SENTENCES[b], "cosine": round(_cosine(vectors[a], vectors[b]), 4)}
            for a, b in pairs
        ]

    async def _burst(self) -> dict[str, Any]:
        body = {"model": "all-MiniLM-L6-v2", "input": [f"{SENTENCES[0]} {n}" for n in range(BURST_SENTENCES)]}
        began_s = time.perf_counter()
        answers = await asyncio.gather(*(self._one_of_burst(body) for _ in range(BURST_REQUESTS)))
        took_s = time.perf_counter() - began_s
        return {"requests": BURST_REQUESTS, "ok": sum(answers), "seconds": round(took_s, 2)}

    async def _one_of_burst(self, body: dict[str, Any]) -> bool:
        async with self._post(body) as answer:
            await answer.read()
            if answer.status == 200:
                self._count(answer)
            return answer.status == 200

    async def _embed(self, text: str) -> str:
        async with self._post({"model": "all-MiniLM-L6-v2", "input": text}) as answer:
            body = await answer.read()
            if answer.status != 200:
                text = body.decode(errors="replace")
                raise SystemExit(f"error: the endpoint answered {answer.status}: {text}")
            return self._count(answer)

    def _post(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 - the library's context manager
        headers = {"Authorization": f"Bearer {self._daemon.key}"}
        return self._session.post(self._daemon.url + PATH, json=body, headers=headers)

    def _count(self, answer: aiohttp.ClientResponse) -> str:
        worker = answer.headers["X-Gpud-Worker"]
        self._served[worker] = self._served.get(worker, 0) + 1
        return worker

    async def _workers(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self._daemon.get("/v1/workers?endpoint=embeddings"))["items"]
        return items

    async def _returned_to_zero(self) -> float:
        began_s = time.perf_counter()
        while await self._workers():
            if time.perf_counter() - began_s > 90:
                raise SystemExit("error: workers of the endpoint are still there after 90 s")
            await asyncio.sleep(0.1)
        return round(time.perf_counter() - began_s, 1)


def _cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))


def _rfc3339(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1000)) + f".{at_ms % 1000:03d}Z"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
