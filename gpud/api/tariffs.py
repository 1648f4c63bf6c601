"""The prices of the settings, as the core reckons with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpud.api.schemas.base import at_ms
from gpud.core.pricing import GpuPrice, Tariff
from gpud.core.usage import NS_PER_MS

if TYPE_CHECKING:
    from gpud.api.services import Services
    from gpud.settings import Settings


def tariff(settings: Settings) -> Tariff:
    """The prices, for GPUs whose names are not known."""
    prices = settings.prices
    return Tariff(
        gpu_hour_micros=prices.gpu_hour_micros,
        prices=tuple(
            GpuPrice(
                gpu=price.gpu,
                gpu_hour_micros=price.gpu_hour_micros,
                since_ns=None if price.since is None else at_ms(price.since) * NS_PER_MS,
                until_ns=None if price.until is None else at_ms(price.until) * NS_PER_MS,
            )
            for price in prices.gpus
        ),
    )


async def tariff_of(services: Services) -> Tariff:
    """The prices of the settings, for the GPUs there are."""
    models = {view.status.gpu.uuid: view.status.gpu.name for view in await services.control.gpus()}
    return replace(tariff(services.settings), models=models)
