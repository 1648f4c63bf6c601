"""One request and its answer: finds the worker, holds the body until there is one, and ends in every case.

An exchange owns its slot and its worker connection. Whatever happens (the answer is whole, the client
leaves, the worker dies, time runs out) ends in `_let_go`, which gives both back exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpud.errors import GpudError, WorkerUnreachable
from gpud.gateway import answers, entry, patience
from gpud.gateway.breaking import last_event
from gpud.gateway.credentials import counted
from gpud.gateway.heads import parse_response
from gpud.gateway.hold import Held
from gpud.gateway.phases import ANSWERING, ARRIVED, CONNECTING, HELD, MODEL, OVER, SENT, TUNNEL
from gpud.gateway.progress import Herald, asks_for_stream
from gpud.gateway.tunnel import Tunnel

if TYPE_CHECKING:
    import asyncio

    from gpud.core.routing import Route
    from gpud.gateway.client_side import ClientConnection
    from gpud.gateway.heads import RequestHead, ResponseHead
    from gpud.gateway.lane import Slot
    from gpud.gateway.plane import Plane
    from gpud.gateway.upload import Upload
    from gpud.gateway.worker_side import WorkerConnection


class Exchange:
    """See the module's text.

    Args:
        plane: What all connections share.
        client: Who asked.
        head: What it asked.
        upload: What has come of the body.
    """

    herald: Herald | None = None
    key = ""
    """On whose account it runs, once that is known."""

    def __init__(self, plane: Plane, client: ClientConnection, head: RequestHead, upload: Upload) -> None:
        self.plane = plane
        self.client = client
        self.head = head
        self.upload = upload
        self.request_id = plane.new_request_id()
        self.began_s = self.connected_s = client.last_s
        self.phase = ARRIVED
        self.control = self.decodes = False
        self.connection: WorkerConnection | None = None
        self.route: Route | None = None
        self.path = head.target
        self._connecting: asyncio.Task[None] | None = None
        self._slot: Slot | None = None
        self._held: Held | None = None
        self._said_continue = self._resent = self._moved = False
        self.deadline_s = self.dispatched_s = self.quiet_since_s = 0.0
        self._status = 0
        self._answer: ResponseHead | None = None
        self._tunnel: Tunnel | None = None

    @property
    def awaits_continue(self) -> bool:
        """The client sends its body when it is told to go on."""
        return self.head.expects and not self._said_continue

    @property
    def party(self) -> str:
        """Who waits: the key, or where none is asked for the address."""
        public = self.route is not None and self.route.public
        return self.client.sender if public or self.head.token is None else self.head.token

    # The request.

    def take_body(self, data: bytes, *, done: bool) -> None:
        """Pass on a part of the request's body, or keep it while there is no worker."""
        if self.phase == OVER:
            return
        sent = self.phase >= SENT and self.connection is not None
        self.upload.add(data, done=done, sent=sent)
        if self.upload.total > self.plane.body_bytes_max and not self.control:
            self.fail(answers.too_large(self.plane.body_bytes_max))
        elif sent and self.connection is not None:
            self.connection.write(data)
        elif self.phase == MODEL:
            entry.choose_by_model(self)
        elif self.upload.waiting_full:
            self.client.stop_reading(upload=True)

    def proceed(self, got: Slot | Held) -> None:
        """Go on with a slot, or wait for one."""
        if isinstance(got, Held):
            self.phase = HELD
            self._held = got
            if self.route is not None and self.route.progress:
                self._tell_progress()
        else:
            self._slot = got
            self._connect(got)

    def _tell_progress(self) -> None:
        """Have the client told how the start goes, if it waits for a stream and has sent all it has."""
        if self.herald is None and self.upload.done and asks_for_stream(self.head, self.upload.kept):
            self.herald = Herald(self)
        if self.herald is not None:
            self.herald.start()

    def _waits_no_more(self) -> None:
        self._held = None
        if self.herald is not None:
            self.herald.stop()

    def granted(self, slot: Slot) -> None:
        """There is a worker: connect to it."""
        self._waits_no_more()
        if self.phase == OVER:
            slot.release()
            return
        self._slot = slot
        self._connect(slot)

    def refused(self, error: GpudError) -> None:
        """There will be none."""
        self._waits_no_more()
        self.fail(error)

    def _connect(self, slot: Slot, *, fresh: bool = False) -> None:
        worker = slot.worker
        now_s = slot.since_s
        pool = self.plane.pools.of(worker.address, worker.port)
        connection = None if fresh else pool.take(now_s)
        if connection is not None:
            self._send(connection, now_s)
        else:
            self.phase = CONNECTING
            self._connecting = pool.open(self)

    def connected(self, connection: WorkerConnection) -> None:
        """Send the request as far as it is known."""
        self._connecting = None
        if self.phase == OVER:
            connection.abort()
            return
        self._send(connection, self.plane.now_s())

    def _send(self, connection: WorkerConnection, now_s: float) -> None:
        self.phase = SENT
        self.connection = connection
        self.connected_s = now_s
        if self.route is not None and not self.deadline_s:
            self.dispatched_s = now_s
            self.deadline_s = now_s + patience.limit_s(self.route, self._slot)
        client = self.client
        if client.writing_paused:
            connection.pause()
        upload = self.upload
        credentials = self.control or (self.route is not None and self.route.forward_authorization)
        request = answers.request_bytes(
            self.head, self.path, client.peer, self.request_id, upload.kept, credentials=credentials
        )
        connection.begin(self, request)
        if client.stops:
            client.go_on_reading(upload=True)
        if not upload.done:
            self.say_continue()

    def to_control(self) -> None:
        """Hand the request to the control API."""
        self.control = True
        now_s = self.plane.now_s()
        self._send(self.plane.control.connect(self.client.peername, now_s), now_s)
        self.upload.forget()

    def say_continue(self) -> None:
        """Ask for the body, if the client waits for that."""
        if self.awaits_continue and not self.upload.done:
            self._said_continue = True
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def connect_failed(self, detail: str) -> None:
        """The worker took no connection: try another one."""
        self._connecting = None
        self._try_elsewhere(detail)

    def _try_elsewhere(self, detail: str) -> None:
        slot, self._slot = self._slot, None
        if slot is None:
            return
        try:
            self.proceed(slot.unreachable(self, f"Worker {slot.worker.worker_id} {detail}"))
        except GpudError as error:
            self.fail(error)

    # The answer.

    def read_answer(self, raw: bytes) -> ResponseHead:
        """Read an answer's head; gpud's own is believed in what it says of itself."""
        if self.control:
            return parse_response(raw, self.head.method, trusted=True)
        return self.plane.response_heads.read(raw, self.head.method)

    def interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx other than 100, which was answered here."""
        if head.status != 100 and not self.head.http10 and not self._heralded:
            self.upload.forget()  # something of the answer was passed on
            self.client.write(answers.interim_bytes(head))

    def answer(self, head: ResponseHead, body: bytes) -> bytes:
        """Make the head the client gets, and what of the body came with it; the rest follows as it comes."""
        self.phase = ANSWERING
        self.upload.forget()
        self._answer = head
        self._status = head.status
        client = self.client
        if self.head.http10 and head.chunked:
            self.decodes = not head.bodiless
        if self.decodes or head.endless or not self.upload.done:
            client.keep_alive = False
        slot = self._slot
        if slot is None:
            extra = b""
        else:
            now_s = self.plane.now_s()
            slot.judge(now_s, failed=head.unwell, status=head.status)
            connect_s = self.connected_s - self.began_s - slot.queue_s
            extra = answers.slot_fields(slot, self.request_id, connect_s, now_s - self.connected_s)
        if self.herald is not None and self.herald.begun:
            self.decodes = True
            return self.herald.answer(head, body)
        if client.keep_alive and head.end and not self.head.http10:
            return b"".join((head.start, extra, head.end, body))
        return answers.response_bytes(
            head, self.head, extra, body, keep_alive=client.keep_alive, decoded=self.decodes
        )

    def decoded(self, data: bytes, *, done: bool) -> bytes:
        """Frame what came of an answer's body, out of its framing, as this client reads it."""
        return self.herald.pass_on(data, done=done) if self.herald is not None and self.herald.begun else data

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        """The worker agreed to an upgrade: from here on both sides' bytes pass untouched."""
        self.phase = TUNNEL
        if self.connection is not None:
            self._tunnel = Tunnel(self.client, self.connection)
        self.upload.forget()
        self._status = 101
        extra = b"" if self._slot is None else answers.slot_fields(self._slot, self.request_id)
        self.client.begin_tunnel(answers.switch_bytes(head, extra) + rest)

    def half_closed(self, *, by_client: bool) -> None:
        """One side of a tunnel has said its last; the other may go on for a while."""
        connection, tunnel = self.connection, self._tunnel
        if connection is None or tunnel is None:
            return
        if tunnel.half_closed(self.plane.now_s(), by_client=by_client):
            self.connection = None
            connection.close()
            self._let_go(reuse=False)
            self.client.close()

    def finished(self) -> None:
        """The answer is whole."""
        if not self.upload.done and self.connection is not None:
            self.connection.reusable = False
        now_s = self.plane.now_s()
        self._let_go(reuse=True, now_s=now_s)
        self.client.exchange_over(self, now_s)

    def fail(self, error: GpudError) -> None:
        """Answer with an error of gpud's own, or cut the answer off when it has begun."""
        if self.phase == OVER:
            return
        began = self.phase >= ANSWERING or self._heralded
        last = self._last_event(error) if began else b""
        self._let_go(reuse=False)
        if began:
            self.client.cut(last)
            return
        error = counted(self.client.keys, error, self.head.token, self.client.sender)
        in_openai = self.head.target.startswith("/openai/")
        body, headers = answers.problem(error, self.request_id, openai=in_openai)
        self.answer_ourselves(error.status, headers, body)

    @property
    def _heralded(self) -> bool:
        """The client has the head of a stream of events already."""
        return self.herald is not None and self.herald.begun

    def _last_event(self, error: GpudError) -> bytes:
        if self.herald is not None and self.herald.begun:
            return self.herald.last_event(error)
        return last_event(self, self._answer, error) if self._answer is not None else b""

    def answer_ourselves(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer without a worker."""
        client = self.client
        self.phase = OVER
        self._status = status
        keep = client.settle_body(awaits_continue=self.awaits_continue)
        client.write(answers.own_bytes(status, headers, body, self.head, keep_alive=keep))
        client.exchange_over(self, self.plane.now_s())

    # What goes wrong.

    def client_left(self) -> None:
        """The client is gone: so is its request, wherever it is."""
        self._status = self._status or 499
        self._let_go(reuse=False)

    def worker_lost(self, connection: WorkerConnection, detail: str) -> None:
        """The worker's connection ended before the answer did."""
        if connection is not self.connection or self.phase == OVER:
            return
        if self.phase == ANSWERING:
            self.fail(WorkerUnreachable("The worker broke off its answer."))
            return
        self.connection = None
        if self.phase == TUNNEL:
            self._let_go(reuse=False)
            self.client.close()
            return
        broke = f"broke the connection before answering{detail}"
        sendable = self.upload.replayable and self.upload.done and not connection.began_answer
        sendable = sendable and self.head.idempotent
        if sendable and connection.used and self._slot is not None and not self._resent:
            self._resent = True
            self._connect(self._slot, fresh=True)  # the worker closed an idle connection as it was used
        elif sendable and not self._moved:
            self._moved = True  # a process that dies may take one more connection before it listens no more
            self._try_elsewhere(broke)
        else:
            self._tell_unreachable(broke)

    def worker_broke(self, what: str) -> None:
        """The worker sent something that must not be passed on."""
        if self.phase != OVER:
            self._tell_unreachable(what)

    def _tell_unreachable(self, what: str) -> None:
        worker_id = self._slot.worker.worker_id if self._slot is not None else "control"
        if self._slot is not None and self.phase < ANSWERING:
            self._slot.broke(self.plane.now_s(), what)
        self.fail(
            WorkerUnreachable(
                f"Worker {worker_id} {what}. The request may have reached it, so it was not sent again.",
                extra={"worker": worker_id},
            )
        )

    def check_deadline(self, now_s: float) -> None:
        """End the exchange when it has taken longer than the endpoint allows."""
        if self._tunnel is not None:
            if self._tunnel.overdue(now_s):
                self._let_go(reuse=False)
                self.client.close()
            return
        error = patience.exceeded(self, now_s, answering=self.phase == ANSWERING)
        if error is not None:
            self.fail(error)

    def _let_go(self, *, reuse: bool, now_s: float | None = None) -> None:
        self.phase = OVER
        if self._held is not None and self.route is not None:
            self.plane.dispatcher.abandon(self.route.endpoint, self._held)
            self._waits_no_more()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self.connection = self.connection, None
        if connection is not None:
            if reuse and now_s is not None:
                connection.rest(now_s)
            else:
                connection.abort()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release(now_s)
        self.plane.note_request(self, self._status)
