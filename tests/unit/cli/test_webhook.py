"""`gpud webhook`: what it asks of the API and says of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpud.cli import exits
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, json_reply, problem

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Gpud

HOOK = {
    "id": "whk_a",
    "url": "https://app.example/hooks",
    "types": ["worker.failed", "job.*"],
    "endpoint": "",
    "description": "",
    "enabled": True,
    "disabled_reason": "",
    "failures": 0,
    "failing_since": None,
    "old_secret_until": "2030-01-01T00:00:00.000Z",
    "created_at": documents.ago(days=3),
}
DELIVERY = {"id": "msg_a", "state": "waiting", "type": "webhook.test", "log": []}


def test_webhooks_are_listed_with_their_state(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.lists("/v1/webhooks", HOOK, HOOK | {"failures": 2, "endpoint": "llm"}, HOOK | {"enabled": False})
    rows = [line.split() for line in gpud("webhook", "ls").out.rstrip("\n").split("\n")[1:]]
    assert [row[1] for row in rows] == ["active", "failing", "disabled"]
    assert [row[4] for row in rows] == ["all", "llm", "all"]


def test_the_secret_alone_goes_to_stdout(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/webhooks", json_reply(HOOK | {"secret": "whsec_x"}, 201))
    ran = gpud("webhook", "create", "https://app.example/hooks", "--type", "job.*", "--endpoint", "llm")
    assert (ran.code, ran.out) == (exits.OK, "whsec_x\n")
    assert "not shown again" in ran.err
    assert daemon.seen[0].document == {
        "url": "https://app.example/hooks",
        "types": ["job.*"],
        "endpoint": "llm",
        "description": "",
    }


def test_a_refused_address_is_named_as_the_user_wrote_it(gpud: Gpud, daemon: CannedDaemon) -> None:
    refusal = problem(400, "url: must be https.", fields={"url": "must be https"})
    daemon.on("POST", "/v1/webhooks", refusal)
    ran = gpud("webhook", "create", "http://app.example/hooks")
    assert ran.code == exits.BAD_USAGE
    assert "must be https" in ran.err


def test_a_test_waits_for_its_outcome(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/webhooks/whk_a/test", json_reply(DELIVERY, 202))
    tried = {"number": 1, "status": 204, "took_ms": 12, "error": ""}
    daemon.on("GET", "/v1/webhooks/whk_a/deliveries/msg_a", DELIVERY | {"state": "delivered", "log": [tried]})
    ran = gpud("webhook", "test", "whk_a")
    assert (ran.code, ran.err.strip()) == (exits.OK, "Delivered: it answered 204 in 12 ms.")


def test_a_test_that_fails_says_why_and_what_to_look_at(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/webhooks/whk_a/test", json_reply(DELIVERY, 202))
    tried = {"number": 1, "status": 500, "took_ms": 12, "error": "Answered 500."}
    daemon.on("GET", "/v1/webhooks/whk_a/deliveries/msg_a", DELIVERY | {"log": [tried]})
    ran = gpud("webhook", "test", "whk_a")
    assert ran.code == exits.FAILED
    assert "Answered 500." in ran.err
    assert "gpud webhook get whk_a msg_a" in ran.err


def test_deliveries_are_sent_again_by_id_or_since(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("POST", "/v1/webhooks/whk_a/deliveries/msg_a/redeliver", json_reply(DELIVERY, 202))
    daemon.on("POST", "/v1/webhooks/whk_a/replay", json_reply({"replayed": 3}, 202))
    assert gpud("webhook", "redeliver", "whk_a", "msg_a").code == exits.OK
    ran = gpud("webhook", "redeliver", "whk_a", "--since", "2026-01-01")
    assert "3 deliveries" in ran.err
    assert daemon.seen[1].document == {"since": "2026-01-01T00:00:00.000Z", "all": False}


@pytest.mark.parametrize("words", [(), ("msg_a", "--since", "2h")])
def test_redelivering_needs_one_way_to_say_what(
    words: tuple[str, ...], gpud: Gpud, daemon: CannedDaemon
) -> None:
    assert gpud("webhook", "redeliver", "whk_a", *words).code == exits.BAD_USAGE
    assert daemon.seen == []


def test_webhooks_are_switched_rotated_and_forgotten(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("PATCH", "/v1/webhooks/whk_a", HOOK)
    daemon.on("POST", "/v1/webhooks/whk_a/rotate", HOOK | {"secret": "whsec_new"})
    daemon.on("DELETE", "/v1/webhooks/whk_a", json_reply({}, 204))
    assert gpud("webhook", "disable", "whk_a").code == exits.OK
    assert gpud("webhook", "enable", "whk_a").code == exits.OK
    assert [seen.document for seen in daemon.asked("PATCH")] == [{"enabled": False}, {"enabled": True}]
    assert gpud("webhook", "rotate", "whk_a").out == "whsec_new\n"
    assert gpud("webhook", "rm", "whk_a").code == exits.OK
