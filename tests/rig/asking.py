"""Asks an HTTP server one thing, with nothing but the standard library between the test and the wire."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.rig import leftovers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker.models.containers import Container


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, read to its end; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    url: str,
    *,
    method: str = "GET",
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    basic_auth: tuple[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Answer:
    """Sends one request on a connection of its own and reads the answer.

    Raises:
        OSError: Nobody listens, the connection broke, or no answer came in time.
    """
    split = urlsplit(url)
    sent = dict(headers or {})
    if basic_auth:
        sent["Authorization"] = "Basic " + base64.b64encode(":".join(basic_auth).encode()).decode()
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=timeout_s)
    try:
        connection.request(method, split.path + (f"?{split.query}" if split.query else ""), body, sent)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=names, body=response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url}: {error!r}") from error
    finally:
        connection.close()


def answers(url: str, *, status: int = 200) -> bool:
    """Whether the server answers this status now."""
    try:
        return ask(url, timeout_s=2.0).status == status
    except OSError:
        return False


def wait_for_answer(url: str, *, status: int = 200, timeout_s: float = 15.0) -> None:
    """Waits until the server answers this status.

    Raises:
        TimeoutError: It did not in time.
    """
    if not leftovers.wait_until(lambda: answers(url, status=status), timeout_s=timeout_s):
        raise TimeoutError(f"{url} did not answer {status} within {timeout_s:g} s")


def address_of(container: Container) -> str:
    """The IP address of a running container on the first of its networks."""
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"]
    return next(str(network["IPAddress"]) for network in networks.values() if network["IPAddress"])
