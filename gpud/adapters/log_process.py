"""The process that keeps the workers' output: what they write never passes through the daemon's loop.

`python -m gpud.adapters.log_process` reads orders from its input, one JSON object a line, and writes
reports to its output. It ends when its input does, so it never outlives its daemon for long.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from gpud.adapters.file_watch import FolderWatch
from gpud.adapters.log_files import LogFile, folder_for, folders
from gpud.adapters.log_keeping import Keeping
from gpud.adapters.log_openings import Opened, Openings
from gpud.adapters.log_pipe import Pipe
from gpud.adapters.log_sources import ApiSource, EngineAway, EngineLogs, FileSource
from gpud.core.ids import CONTAINER_PREFIX
from gpud.core.log_caps import LogCaps
from gpud.core.log_lines import stamp_of
from gpud.core.redaction import Redactor

_NICE = 5
_PAUSE_S = 0.02
"""Between two rounds: lines are written in batches, and a busy log costs 50 rounds a second at most."""
_LOOK_S = 0.25
"""Between looks at files that the kernel does not watch for us."""
_REPORT_S = 2.0
_RETRY_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_LOCK_WAIT_S = 15.0


@dataclass(slots=True)
class _Followed:
    """One worker.

    Attributes:
        wanted: Its container's output is wanted; before, only gpud's own words are kept.
        opening: The engine is being asked.
        quiet: Attempts in a row that brought nothing.
        again_s: Monotonic time of the next attempt; infinite while there is a source.
        watch: Number of its folder's watch; -1 without.
        finishing: The daemon waits to hear that everything was read.
    """

    pipe: Pipe
    wanted: bool = False
    opening: bool = False
    quiet: int = 0
    again_s: float = 0.0
    watch: int = -1
    finishing: bool = False
    reported: dict[str, int] = field(default_factory=dict)


class LogProcess:
    """Follows containers until its input ends.

    Args:
        root: Of the logs.
        caps: What is kept.
        openings: Asks the engine, on threads of its own.
        orders: Where orders come from.
        reports: Where reports go.
    """

    def __init__(self, root: Path, caps: LogCaps, openings: Openings, orders: int, reports: IO[str]) -> None:
        self._root = root
        self._caps = caps
        self._openings = openings
        self._orders = orders
        self._reports = reports
        self._keeping = Keeping(root, caps)
        self._selector = selectors.DefaultSelector()
        self._selector.register(orders, selectors.EVENT_READ, None)
        self._selector.register(openings.done_fd, selectors.EVENT_READ, None)
        self._watch = FolderWatch()
        self._selector.register(self._watch.fileno(), selectors.EVENT_READ, None)
        self._followed: dict[str, _Followed] = {}
        self._watched: dict[int, str] = {}
        self._dirty: set[str] = set()
        self._order_rest = b""
        self._number = max((folder.number for folder in folders(root)), default=0)
        self._reported_s = 0.0

    def run(self) -> None:
        """Go round until the daemon is gone."""
        while self._round():
            pass
        for followed in self._followed.values():
            followed.pipe.close(over=False)
        self._keeping.close()

    def _round(self) -> bool:
        now_s = time.monotonic()
        timeout_s = 0.0 if self._dirty else max(self._next_s() - now_s, 0.0)
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            if key.fd == self._orders:
                if not self._take_orders():
                    return False
            elif key.fd == self._openings.done_fd:
                for opened in self._openings.take():
                    self._take_opened(opened)
            elif key.fd == self._watch.fileno():
                changed = self._watch.changed()
                known = self._watched
                self._dirty |= (
                    set(self._followed) if changed is None else {known[n] for n in changed if n in known}
                )
            else:
                self._dirty.add(key.data)
        self._look_after(time.monotonic())
        worked = self._turns()
        if worked or ready:
            time.sleep(_PAUSE_S if not self._dirty else 0)
        return True

    def _next_s(self) -> float:
        """When something is due without anybody telling."""
        due_s = self._reported_s + _REPORT_S
        for followed in self._followed.values():
            if followed.wanted and not followed.opening and followed.pipe.source is None:
                due_s = min(due_s, followed.again_s)
            elif isinstance(followed.pipe.source, FileSource) and followed.watch < 0:
                due_s = min(due_s, time.monotonic() + _LOOK_S)
        return due_s

    def _look_after(self, now_s: float) -> None:
        for worker_id, followed in self._followed.items():
            source = followed.pipe.source
            if source is None:
                if followed.wanted and not followed.opening and now_s >= followed.again_s:
                    self._open(worker_id, followed)
            elif isinstance(source, FileSource) and (followed.watch < 0 or followed.finishing):
                self._dirty.add(worker_id)
        if now_s - self._reported_s >= _REPORT_S:
            self._reported_s = now_s
            self._report_counts()
            open_paths = frozenset(followed.pipe.file.path for followed in self._followed.values())
            self._keeping.enforce(open_paths)

    def _open(self, worker_id: str, followed: _Followed) -> None:
        followed.opening = True
        self._openings.ask(worker_id, CONTAINER_PREFIX + worker_id, followed.pipe.file.marks())

    def _turns(self) -> bool:
        dirty, self._dirty = self._dirty, set()
        for worker_id in dirty:
            followed = self._followed.get(worker_id)
            if followed is None or followed.pipe.source is None:
                continue
            before = followed.pipe.source
            try:
                more = followed.pipe.turn()
            except (OSError, EngineAway):
                # The disk is full, or the engine talks nonsense: what was read is read again later.
                self._lose_source(worker_id, followed, before)
                continue
            if more:
                followed.quiet = 0
                self._dirty.add(worker_id)
            elif more is None:
                self._lose_source(worker_id, followed, before)
            if followed.finishing and (more is None or (more is False and isinstance(before, FileSource))):
                self._finished(worker_id, followed)
        return bool(dirty)

    def _lose_source(self, worker_id: str, followed: _Followed, source: object) -> None:
        if isinstance(source, ApiSource):
            for key in [k for k in self._selector.get_map().values() if k.data == worker_id]:
                self._selector.unregister(key.fileobj)
        self._unwatch(followed)
        followed.pipe.drop_source()
        followed.again_s = time.monotonic() + _RETRY_S[min(followed.quiet, len(_RETRY_S) - 1)]
        followed.quiet += 1

    def _unwatch(self, followed: _Followed) -> None:
        if followed.watch >= 0:
            self._watch.remove(followed.watch)
            self._watched.pop(followed.watch, None)
            followed.watch = -1

    def _take_opened(self, opened: Opened) -> None:
        followed = self._followed.get(opened.worker_id)
        if followed is None:
            if opened.source is not None:
                opened.source.close()
            return
        followed.opening = False
        if opened.source is None:
            followed.again_s = time.monotonic() + _RETRY_S[min(followed.quiet, len(_RETRY_S) - 1)]
            followed.quiet += 1
            if followed.finishing and opened.absent:
                self._finished(opened.worker_id, followed)
            return
        followed.pipe.take_source(opened.source)
        if isinstance(opened.source, ApiSource):
            self._selector.register(opened.source.fileno(), selectors.EVENT_READ, opened.worker_id)
        else:
            self._watch_folder(opened.worker_id, followed, opened.folder)
        self._dirty.add(opened.worker_id)

    def _watch_folder(self, worker_id: str, followed: _Followed, folder: Path) -> None:
        try:
            followed.watch = self._watch.add(folder)
        except OSError:
            followed.watch = -1  # looked at every now and then instead
        else:
            self._watched[followed.watch] = worker_id

    # -- orders and reports --------------------------------------------------------------------

    def _take_orders(self) -> bool:
        data = os.read(self._orders, 1 << 16)
        if not data:
            return False
        *lines, self._order_rest = (self._order_rest + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            getattr(self, f"_on_{order.pop('order')}")(**order)
        return True

    def _on_begin(self, worker: str, endpoint: str, secrets: list[str]) -> None:
        """Follow a worker's container."""
        followed = self._of(worker, endpoint)
        followed.pipe.keep_secret(Redactor(secrets))
        if not followed.wanted:
            followed.wanted, followed.quiet, followed.again_s = True, 0, 0.0

    def _on_note(self, worker: str, endpoint: str, at_ns: int, text: str) -> None:
        """Write what gpud says of a worker."""
        try:
            self._of(worker, endpoint).pipe.note(stamp_of(at_ns), text)
        except OSError:
            self._keeping.failed_notes += 1

    def _on_finish(self, worker: str) -> None:
        """The container has ended: say when everything it wrote is kept."""
        followed = self._followed.get(worker)
        if followed is None:
            self._tell({"finished": worker})
            return
        followed.finishing, followed.wanted, followed.again_s = True, True, 0.0
        self._dirty.add(worker)

    def _finished(self, worker_id: str, followed: _Followed) -> None:
        followed.finishing, followed.wanted = False, False
        if followed.pipe.source is not None:
            self._lose_source(worker_id, followed, followed.pipe.source)
        self._tell({"finished": worker_id})

    def _on_end(self, worker: str) -> None:
        """Nothing more will be said of a worker."""
        followed = self._followed.pop(worker, None)
        if followed is None:
            return
        if followed.pipe.source is not None:
            self._lose_source(worker, followed, followed.pipe.source)
        followed.pipe.close(over=True)
        self._tell_counts(worker, followed)

    def _of(self, worker: str, endpoint: str) -> _Followed:
        followed = self._followed.get(worker)
        if followed is None:
            found = [one for one in folders(self._root) if one.worker_id == worker]
            folder = found[-1] if found else folder_for(self._root, endpoint, worker, self._new_number())
            file = LogFile(
                folder, segment_bytes=self._caps.segment_bytes, rotated=self._keeping.compress_later
            )
            followed = self._followed[worker] = _Followed(pipe=Pipe(file, self._caps, Redactor()))
        return followed

    def _new_number(self) -> int:
        """Moments order logs, and no number is ever used again."""
        self._number = max(self._number + 1, time.time_ns() // 1_000_000)
        return self._number

    def _report_counts(self) -> None:
        for worker_id, followed in self._followed.items():
            self._tell_counts(worker_id, followed)

    def _tell_counts(self, worker_id: str, followed: _Followed) -> None:
        counts = asdict(followed.pipe.counts)
        if counts != followed.reported:
            followed.reported = counts
            self._tell({"counts": worker_id, **counts})

    def _tell(self, report: dict[str, Any]) -> None:
        self._reports.write(json.dumps(report) + "\n")
        self._reports.flush()


def _lock(root: Path) -> IO[str]:
    """Wait for the process of the daemon before, which ends as soon as it sees that its daemon has."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (root / "lock").open("w")
    until_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return lock


def main() -> None:
    """Read the settings from the first line of the input, then serve."""
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which closes our input.
    first = b""
    while not first.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        first += byte
    settings = json.loads(first)
    root = Path(settings["root"])
    with _lock(root):
        engine = EngineLogs(settings["engine"], timeout_s=settings["timeout_s"])
        openings = Openings(engine, files=settings["files"])
        LogProcess(root, LogCaps(**settings["caps"]), openings, 0, sys.stdout).run()


if __name__ == "__main__":
    main()
