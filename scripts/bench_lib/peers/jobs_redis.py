"""Enqueue, claim and complete on Redis lists, appendfsync always; prints jobs a second and the p99 in ms."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time

import redis


def main(socket_path: str, producers: int, for_s: float) -> None:
    pool = redis.ConnectionPool(
        connection_class=redis.UnixDomainSocketConnection, path=socket_path, max_connections=producers + 1
    )
    redis.Redis(connection_pool=pool).flushall()
    body = json.dumps({"prompt": "a fox"})
    took_s: list[float] = []
    began_s = time.perf_counter()

    def produce() -> None:
        client = redis.Redis(connection_pool=pool)
        at_s = time.perf_counter()
        while at_s - began_s < for_s:
            client.lpush("queue", body)
            claimed = client.lmove("queue", "running", "RIGHT", "LEFT")
            if claimed is not None:
                with client.pipeline(transaction=True) as ending:
                    ending.lrem("running", 1, claimed)
                    ending.lpush("done", claimed)
                    ending.execute()
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
