"""A worker in one function: answers at once, or counts aloud, which is streamed."""

import time

import gpud_worker


def handler(job: gpud_worker.Job) -> object:
    """Greet; with `{"count": n}` yield n numbers, a tenth of a second apart."""
    count = job.input.get("count") if isinstance(job.input, dict) else None
    if count is None:
        return {"hello": job.input, "job": job.id, "attempt": job.attempt}
    if not isinstance(count, int):
        raise gpud_worker.JobFailed("count must be a whole number")  # trying again would not help
    return numbers(job, count)


def numbers(job: gpud_worker.Job, count: int) -> object:
    """Yield numbers, and say how far it is."""
    for number in range(count):
        job.progress({"done": number, "of": count})
        yield {"number": number}
        time.sleep(0.1)


if __name__ == "__main__":
    # A model is loaded here, before the call: the worker counts as ready once it answers.
    gpud_worker.serve(handler)
