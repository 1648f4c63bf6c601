"""How long a handler takes from its process's start until it can have a job, beside RunPod's SDK.

Both run in one container of the base image, in turns. gpud's is ready once its health check answers 200;
RunPod's once it asks for its first job. The first round is not counted: it fills the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench_lib.report import Report, add_arguments

from tests.rig.engine import PrivateEngine
from tests.rig.images import cache_dir, ensure_base_image

ROOT = Path(__file__).parents[2]
RUNPOD = "runpod==1.12.*"
ROUNDS, QUICK_ROUNDS = 15, 4

HARNESS = """
import http.client, json, os, socket, subprocess, sys, threading, time

GPUD = "import gpud_worker; gpud_worker.serve(lambda job: job.input)"
RUNPOD = "import runpod; runpod.serverless.start({'handler': lambda job: job['input']})"
ENV = {"PATH": os.environ["PATH"], "HOME": "/tmp"}

def gpud():
    began_s = time.perf_counter()
    env = ENV | {"PYTHONPATH": "/sdk", "PORT": "8000"}
    process = subprocess.Popen([sys.executable, "-c", GPUD], env=env)
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except ConnectionRefusedError:
            time.sleep(0.001)
        finally:
            connection.close()
    return process, time.perf_counter() - began_s

def runpod():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v2/e"
        env = ENV | {
            "PYTHONPATH": "/site",
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/w?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/w/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/w/$ID?gpu=none",
            "RUNPOD_AI_API_KEY": "k",
            "RUNPOD_POD_ID": "w",
            "RUNPOD_ENDPOINT_ID": "e",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", RUNPOD], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            connection, _ = server.accept()
            with connection:
                if b"/job-take/" in connection.recv(65536):
                    return process, time.perf_counter() - began_s

for subject in (gpud, runpod) * (int(sys.argv[1]) + 1):
    process, took_s = subject()
    print(json.dumps([subject.__name__, took_s * 1000]), flush=True)
    process.kill()
    process.wait()
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench worker_sdk", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(argv)
    site = cache_dir() / "bench-runpod-site"
    if not site.exists():
        part = site.with_suffix(".part")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--only-binary",
            ":all:",
            "--target",
            str(part),
        ]
        subprocess.run([*command, RUNPOD], check=True)
        part.rename(site)
    report = Report("worker_sdk")
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with PrivateEngine("bench-sdk") as engine:
        mounts = {str(site): {"bind": "/site", "mode": "ro"}}
        mounts[str(ROOT / "gpud/sdk")] = {"bind": "/sdk", "mode": "ro"}
        said = engine.client.containers.run(
            ensure_base_image(engine),
            ["python3", "-c", HARNESS, str(rounds)],
            volumes=mounts,
            init=True,
            remove=True,
        )
    samples: dict[str, list[float]] = {"gpud": [], "runpod": []}
    for line in said.decode().splitlines():
        subject, took_ms = json.loads(line)
        samples[subject].append(took_ms)
    for subject, took_ms in samples.items():
        report.add("worker_sdk_start_ms", subject, "ms", took_ms[1:])
    report.finish(options)
    return 0
