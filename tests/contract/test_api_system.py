from __future__ import annotations

from gpud.cli import templates
from gpud.ports.traffic import GatewayReading
from tests.contract.api_site import running_api


async def test_the_daemon_tells_how_its_gateway_is() -> None:
    reading = GatewayReading(
        connections=3, requests=2, statuses={499: 1, 200: 41}, loop_lag_s=0.001, loop_lag_s_max=0.0204
    )
    async with running_api(gateway=lambda: reading) as site:
        answer = await site.client.get("/v1/system", headers=site.admin)
        assert (await answer.json())["gateway"] == {
            "connections": 3,
            "requests": 2,
            "statuses": {"200": 41, "499": 1},
            "loop_lag_ms": 1.0,
            "loop_lag_ms_max": 20.4,
        }


async def test_templates_are_those_of_the_command_line_and_each_passes_a_dry_run() -> None:
    async with running_api() as site:
        answer = await site.client.get("/v1/templates", headers=site.admin)
        told = (await answer.json())["items"]
        assert [one["name"] for one in told] == templates.names()
        for one in told:
            assert one["text"] == templates.text_of(one["name"])
            assert one["text"].startswith(f"# {one['about']}\n")
            assert (one["spec"]["name"], one["spec"]["image"]) == (one["name"], one["image"])
            answer = await site.client.post("/v1/dry-runs", json=one["spec"], headers=site.admin)
            assert answer.status == 200, await answer.text()
