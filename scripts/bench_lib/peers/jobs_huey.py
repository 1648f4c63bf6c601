"""Enqueue, dequeue and execute with huey's SqliteHuey, fsync on; prints jobs a second and the p99 in ms."""

from __future__ import annotations

import statistics
import sys
import threading
import time

from huey import SqliteHuey


def main(path: str, producers: int, for_s: float) -> None:
    huey = SqliteHuey("bench", filename=path, fsync=True, results=True, timeout=60)

    @huey.task()
    def work(value: dict[str, str]) -> dict[str, str]:
        return value

    took_s: list[float] = []
    began_s = time.perf_counter()

    def produce() -> None:
        at_s = time.perf_counter()
        while at_s - began_s < for_s:
            work({"prompt": "a fox"})
            task = huey.dequeue()
            if task is not None:
                huey.execute(task)
            now_s = time.perf_counter()
            took_s.append(now_s - at_s)
            at_s = now_s

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - began_s
    print(len(took_s) / elapsed_s, statistics.quantiles(took_s, n=100)[-1] * 1000)


main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
