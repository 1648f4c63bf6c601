"""Documents as the API gives them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def ago(**length: float) -> str:
    return (datetime.now(UTC) - timedelta(**length)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def worker(worker_id: str = "wk_aaaaaaaaaaaaaaaa", **more: object) -> dict[str, object]:
    return {
        "id": worker_id,
        "endpoint": "llm",
        "revision": "3f2a1b0c9d8e",
        "state": "ready",
        "cause": "probe_passed",
        "detail": "",
        "failed": False,
        "adopted": False,
        "gpu_uuids": ["GPU-11111111-2222-3333-4444-555555555555"],
        "address": "172.20.0.3",
        "port": 8000,
        "created_at": ago(minutes=3, seconds=5),
        "container_started_at": ago(minutes=3),
        "container_finished_at": None,
        "exit_code": None,
        **more,
    }


def endpoint(name: str = "llm", **more: object) -> dict[str, object]:
    made = ago(hours=2, minutes=1)
    return {
        "name": name,
        "condition": "ready",
        "revision": "3f2a1b0c9d8e",
        "spec": spec(name),
        "image": {
            "reference": "vllm/vllm-openai:v0.11",
            "pin": "vllm/vllm-openai@sha256:" + "ab" * 32,
            "exposed_ports": [8000],
        },
        "desired": 2,
        "scale_reason": "load",
        "waiting": 0,
        "in_flight": 3,
        "workers": [worker(endpoint=name)],
        "waits": [],
        "last_error": "",
        "pull": None,
        "window": None,
        "forecast": {"gaps": 0, "forecasts": 0},
        "created_at": made,
        "updated_at": made,
        **more,
    }


def spec(name: str = "llm", **scale: object) -> dict[str, object]:
    return {
        "name": name,
        "image": "vllm/vllm-openai:v0.11",
        "type": "http",
        "command": ["--model", "Qwen/Qwen3-8B"],
        "port": 8000,
        "aliases": [],
        "registry": "",
        "env": {},
        "public": False,
        "gpus": {"count": 1, "memory_mib": 0, "least_memory_mib": 24576, "model": "H100"},
        "scale": {
            "min_workers": 0,
            "max_workers": 4,
            "policy": "concurrency",
            "target": 0.0,
            "concurrency": 8,
            "idle_timeout_s": 60.0,
            "priority": 0,
            "balance": "round_robin",
            **scale,
        },
        "health": {"path": "/health", "start_timeout_s": 600.0},
        "limits": {"request_timeout_s": 600.0},
        "volumes": [],
    }


def gpu(index: int = 0, **more: object) -> dict[str, object]:
    return {
        "uuid": f"GPU-{index}1111111-2222-3333-4444-555555555555",
        "name": "NVIDIA H100 80GB HBM3",
        "index": index,
        "memory_mib": 81559,
        "numa_node": 0,
        "cpus": "0-15",
        "mig_parent": None,
        "health": "healthy",
        "reason": "",
        "since": None,
        "worker_id": None,
        "endpoint": None,
        "used_mib": 4,
        "pids": [],
        **more,
    }
