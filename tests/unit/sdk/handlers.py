"""A worker for the tests, in a process of its own: `python handlers.py FOLDER HANDLER PORT-FILE`."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-not-found"

import asyncio
import socket
import sys
import time

sys.path.insert(0, sys.argv[1])
import gpud_worker


def told(what):
    sys.stdout.write(f"{what}\n")  # in one piece, whichever thread it is
    sys.stdout.flush()


def plain(job):
    if job.input == "raise":
        raise KeyError("missing thing")
    if job.input == "never again":
        raise gpud_worker.JobFailed("the prompt is empty")
    if job.input == "later":
        raise gpud_worker.TryAgain(7, "no memory now")
    if job.input == "unwritable":
        return {1, 2}
    if job.input == "progress":
        for step in range(3):
            job.progress({"step": step})
        return "done"
    if job.input == "wait":
        try:
            told("begun")
            while True:
                time.sleep(0.01)
        except gpud_worker.Cancelled:
            told("cancelled")
            raise
    if job.input == "slow":
        told("begun")
        time.sleep(0.5)
        return "slept"
    if isinstance(job.input, bytes):
        return len(job.input)
    said = {"id": job.id, "attempt": job.attempt, "delivery": job.delivery, "by": job.deadline_ms}
    return {"echo": job.input, **said}


async def awaits(job):
    if job.input == "wait":
        told("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            told("cancelled")
    if job.input == "raise":
        raise ValueError("no")
    await asyncio.sleep(0)
    return ["async", job.input]


def yields(job):
    try:
        for number in range(job.input["count"]):
            yield {"number": number}
            if job.input.get("slow"):
                time.sleep(0.02)
        if job.input.get("raise"):
            raise ValueError("in the\nmiddle")
    finally:
        told("closed")


async def async_yields(job):
    try:
        for number in range(job.input["count"]):
            yield {"number": number}
            if job.input.get("slow"):
                await asyncio.sleep(0.02)
    finally:
        told("closed")


class Callable:
    async def __call__(self, job):
        return ["object", job.input]


def returns_generator(job):
    return (number for number in range(job.input))


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    handler = Callable() if sys.argv[2] == "Callable" else globals()[sys.argv[2]]
    told(port)
    gpud_worker.serve(
        handler,
        host="127.0.0.1",
        port=port,
        path="/run",
        status_path=sys.argv[4] if len(sys.argv) > 4 else "",
        concurrency=int(sys.argv[3]),
    )
    told("ended")
