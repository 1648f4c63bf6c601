"""The API against its own OpenAPI document: whatever is sent, it answers as the document says.

The cases are made from the document, the same ones at every run. Each operation meets an API
that runs in a thread of its own, with an endpoint, a worker and rows in its store.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from gpud.api.app import ALL_OPERATIONS
from gpud.api.auth import AttemptLimit
from gpud.api.openapi import openapi_document
from gpud.api.services import SERVICES
from gpud.core.endpoint import EndpointSpec
from gpud.core.ids import EndpointName
from gpud.core.records import EndpointSaved, EventRecorded, WorkerInserted
from tests.contract.api_site import running_api
from tests.contract.test_api_access import NEEDED

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.long

CASES_MAX = 4
"""Cases for each operation and each kind of data."""


class ApiThread:
    """The API on an event loop of its own, since the cases are sent by blocking code."""

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.tokens: dict[str, str] = {}
        self.session = requests.Session()
        self.session.trust_env = False  # No proxy stands before it, and looking for one is a tenth of a call.
        self._up: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fuzzed-api")

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.result(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except Exception as error:
                if self._up.done():
                    raise
                self._up.set_exception(error)

    async def _serve(self) -> None:
        async with running_api() as site:
            site.keyring._attempts = AttemptLimit(site.clock, attempts_max=1_000_000)
            site.app[SERVICES].stopping.set()  # Followers get what there is, and the end.
            endpoint, _ = await site.control.deploy(EndpointSpec(name=EndpointName("llm"), image="a/b"))
            worker = site.control.add_worker("wk_aaaaaaaaaaaaaaaa", "llm", address="172.30.0.2")
            await site.store.fleet.record(
                [
                    EndpointSaved(endpoint=endpoint),
                    WorkerInserted(worker=worker),
                    EventRecorded(kind="endpoint.deployed", at_ms=1, endpoint="llm", facts={"new": True}),
                ]
            )
            self.url = str(site.client.make_url("/"))
            self.token = site.admin["Authorization"]
            for scope in filter(None, OTHERS):
                self.tokens[scope] = (await site.headers(scope))["Authorization"]
            self._up.set_result(None)
            await self._done.wait()


@pytest.fixture(scope="module")
def api() -> Iterator[ApiThread]:
    with ApiThread() as running:
        yield running


CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "generation": {"deterministic": True, "max-examples": CASES_MAX},
        "checks": {
            # A document cannot say all that makes a spec illegal: a path in a volume, a cursor of ours.
            "positive_data_acceptance": {"enabled": False},
            # The body is measured before it is read.
            "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 422]},
        },
    }
)


@pytest.fixture
def documented(request: pytest.FixtureRequest) -> Any:
    """The schema. As a fixture its cases are made by the process that runs them, not by all that collect."""
    request.node._nodeid = (
        request.node.nodeid
    )  # Schemathesis 4.32 asks for the name it had before pytest 9.2.
    return schemathesis.openapi.from_dict(openapi_document(ALL_OPERATIONS, version="0.1.0"), config=CONFIG)


schema = schemathesis.pytest.from_fixture("documented")
OTHERS = ("read", "write", "metrics", "exec", "invoke:*", "invoke:llm", "")
"""Each of the first cases of an operation is sent by one of these as well; the empty one has no key."""
SEEDED = ("172.30.0.2", '"endpoint.deployed"')
"""What is in the store, and in no request."""
_turns: Counter[str] = Counter()


def _may(needed: str, held: str) -> bool:
    """Whether a scope reaches an operation, whatever it then says."""
    match needed:
        case "open":
            return True
        case "any":
            return bool(held)
        case "invoke":
            return held.startswith("invoke:")
        case _:
            return needed == held


def _ask_as_another(case: Any, api: ApiThread) -> None:
    """Whoever lacks the scope is refused before anything is read, and reads nothing."""
    name = case.operation.definition.raw["operationId"]
    turn = _turns[name]
    _turns[name] += 1
    if turn >= len(OTHERS):
        return
    held = OTHERS[turn]
    headers = {"Authorization": api.tokens[held]} if held else {}
    response = case.call(base_url=api.url, session=api.session, headers=headers, allow_redirects=False)
    if _may(NEEDED[name], held):
        assert response.status_code < 500, (held, response.text)
    else:
        assert response.status_code in (401, 403, 404, 405), (held, response.text)
        assert not [fact for fact in SEEDED if fact in response.text], held


@pytest.mark.timeout(600)
@schema.parametrize()
@settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_the_document_names(case: Any, api: ApiThread) -> None:
    headers = {"Authorization": api.token}
    _ask_as_another(case, api)
    case.call_and_validate(base_url=api.url, session=api.session, headers=headers, allow_redirects=False)
