"""Makes the workers' own network, or checks that the one of that name keeps workers apart."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from docker.errors import APIError

from gpud.adapters.docker_seen import LABEL_INSTALL
from gpud.errors import BadSettings

if TYPE_CHECKING:
    import docker

ISOLATION = {"com.docker.network.bridge.enable_icc": "false"}
"""No traffic between workers; the host, and so the gateway, reaches each of them."""
_NO_SUBNET = ("overlap", "address pool", "invalid subnet", "invalid cidr", "invalid network config")


def ensure_network(client: docker.APIClient, *, name: str, subnet: str, install_id: str) -> None:
    """Create the bridge network if it is missing; safe to repeat.

    A network that another install of gpud made with the same isolation is used as it is: workers
    are kept apart in it whichever install they belong to.

    Raises:
        BadSettings: The name is taken by another kind of network, or the subnet cannot be had.
    """
    found = _find(client, name)
    if found is None:
        _create(client, name=name, subnet=subnet, install_id=install_id)
        found = _find(client, name)
    if found is not None and (why := _unfit(found, subnet)):
        raise BadSettings(
            f"The Docker network {name} exists and cannot be used: {why}. Remove it with `docker network "
            f"rm {name}`, or choose another name with docker.network in gpud.toml.",
            fields={"docker.network": why},
        )


def gateway_of(client: docker.APIClient, name: str) -> str:
    """The address this box has in a network; empty when there is no such network."""
    network = _find(client, name)
    pools = ((network or {}).get("IPAM") or {}).get("Config") or ()
    for pool in pools:
        if "." not in (pool.get("Subnet") or pool.get("Gateway") or ""):
            continue
        # Some engines tell no gateway for a subnet that was chosen; it is then the first address.
        return str(pool.get("Gateway") or next(IPv4Network(pool["Subnet"]).hosts())).partition("/")[0]
    return ""


def _find(client: docker.APIClient, name: str) -> dict[str, Any] | None:
    # By listing, because the engine matches names by their parts, and refuses to inspect a name
    # that two networks have: two daemons that start at once can have it make both.
    same = [network for network in client.networks(names=[name]) if network["Name"] == name]
    for duplicate in same[1:]:
        with suppress(APIError):  # Somebody's container is in it: that one stays.
            client.remove_network(duplicate["Id"])
    return same[0] if same else None


def _create(client: docker.APIClient, *, name: str, subnet: str, install_id: str) -> None:
    ipam = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
    try:
        client.create_network(
            name,
            driver="bridge",
            options=ISOLATION,
            ipam=ipam,
            check_duplicate=True,
            labels={LABEL_INSTALL: install_id},
        )
    except APIError as error:
        if error.status_code == 409:
            return  # Made by another call at the same time.
        said = str(error.explanation).strip().rstrip(".")
        if not any(words in said.lower() for words in _NO_SUBNET):
            raise
        why = f"the engine cannot give it the addresses {subnet or 'it would choose itself'}"
        raise BadSettings(
            f"The Docker network {name} cannot be made: {why}. Set docker.subnet in gpud.toml to a range "
            f"that nothing on this box uses, such as 10.213.0.0/16. The engine said: {said}",
            fields={"docker.subnet": why},
        ) from error


def _unfit(network: dict[str, Any], subnet: str) -> str:
    """Why a network cannot hold workers; empty when it can."""
    options = network.get("Options") or {}
    if LABEL_INSTALL not in (network.get("Labels") or {}):
        return "gpud did not make it"
    if network["Driver"] != "bridge" or network.get("Internal"):
        return "it is not a bridge network that reaches out"
    if any(options.get(option) != value for option, value in ISOLATION.items()):
        return "it lets containers reach each other"
    subnets = [pool.get("Subnet") for pool in (network.get("IPAM") or {}).get("Config") or ()]
    if subnet and subnet not in subnets:
        return f"its subnet is {', '.join(filter(None, subnets))}, not the {subnet} of docker.subnet"
    return ""
