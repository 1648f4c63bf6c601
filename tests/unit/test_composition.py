from __future__ import annotations

import pytest

from gpud.adapters.cron_calendar import CronCalendar
from gpud.composition import image_policy
from gpud.errors import BadSettings
from gpud.settings import ImageSettings, Settings


def test_image_settings_become_the_cores_policy() -> None:
    settings = Settings(images=ImageSettings(disk_budget_gib=1.5, free_gib_min=2))
    policy = image_policy(settings, CronCalendar())
    assert (policy.disk_budget_bytes, policy.free_bytes_least) == (3 << 29, 2 << 30)


@pytest.mark.parametrize(
    ("given", "field"), [({"check_cron": "often"}, "check_cron"), ({"time_zone": "Mars/North"}, "time_zone")]
)
def test_a_schedule_that_no_calendar_knows_is_named(given: dict[str, str], field: str) -> None:
    with pytest.raises(BadSettings) as refused:
        image_policy(Settings(images=ImageSettings.model_validate(given)), CronCalendar())
    assert set(refused.value.fields) == {f"images.{field}"}
