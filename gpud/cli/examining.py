"""Has this box examined: asks the daemon, if one runs, and looks at what it stands on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpud.cli import exits
from gpud.cli.exits import CommandFailed
from gpud.cli.output import text_at, value_at
from gpud.cli.settings_file import find

if TYPE_CHECKING:
    from gpud.cli.client import Client
    from gpud.cli.context import Context
    from gpud.cli.values import Values
    from gpud.core.doctor.findings import Finding
    from gpud.core.doctor.install import DaemonLook
    from gpud.settings import Settings

_ANSWER_S = 5.0


class Examined(NamedTuple):
    """A box as it was found.

    Args:
        areas: The findings; see `core.doctor.examination.examine`.
        settings: Those in force, or else the file's, or else the defaults.
        daemon_answers: A daemon runs and may be asked.
        socket: Where it is asked when nobody says.
    """

    areas: tuple[tuple[str, tuple[Finding, ...]], ...]
    settings: Settings
    daemon_answers: bool
    socket: str

    def document(self) -> dict[str, object]:
        """As `--json` prints it."""
        from gpud.core.doctor.findings import counts  # noqa: PLC0415

        totals = counts(finding for _area, findings in self.areas for finding in findings)
        checks = [
            {
                "area": area,
                "check": finding.check,
                "verdict": finding.verdict.value,
                "found": finding.found,
                "why": finding.why,
                "todo": finding.todo,
            }
            for area, findings in self.areas
            for finding in findings
        ]
        return {"ok": not totals["failed"], "counts": totals, "checks": checks}


def examine_fully(values: Values, context: Context) -> Examined:
    """Look at the box and judge it."""
    from gpud.core.doctor import examination  # noqa: PLC0415 - help does without
    from gpud.core.doctor.install import SettingsLook  # noqa: PLC0415
    from gpud.offline import look_at_box  # noqa: PLC0415 - half a second of imports
    from gpud.settings import Settings  # noqa: PLC0415

    file = find(values)
    run_dir = (file.settings or Settings()).paths.run_dir
    socket = str(run_dir / "api.sock")
    client = context.new_client(timeout_s=_ANSWER_S, default_socket=socket)
    try:
        daemon = _daemon(client)
        in_force = _settings_in_force(client) if daemon.answers else None
        health = _gpu_health(client) if daemon.answers else {}
    finally:
        client.close()
    settings = in_force or file.settings or Settings()
    changed = _changed(file.settings, in_force) if file.settings and in_force else ()
    told = SettingsLook(path=str(file.path or ""), error=file.error, changed=changed)
    box = look_at_box(
        settings,
        told,
        daemon,
        daemon_gpus=health,
        listens=_address(settings) if daemon.answers else "",
    )
    return Examined(examination.examine(box), settings, daemon.answers, socket)


def _daemon(client: Client) -> DaemonLook:
    from gpud.core.doctor.install import DaemonLook  # noqa: PLC0415

    try:
        system = client.get("/v1/system")
    except CommandFailed as failure:
        denied = failure.code == exits.NOT_ALLOWED
        return DaemonLook(socket=client.named, error=failure.what.rstrip("."), denied=denied)
    parts = value_at(system, "parts")
    faults = tuple(
        (str(part), str(fault)) for part, fault in (parts.items() if isinstance(parts, dict) else ()) if fault
    )
    return DaemonLook(socket=client.named, answers=True, version=text_at(system, "version"), faults=faults)


def _settings_in_force(client: Client) -> Settings | None:
    from gpud.settings import Settings  # noqa: PLC0415

    try:
        return Settings.model_validate(client.get("/v1/settings"))
    except (CommandFailed, ValueError):
        return None  # a key that may not read them, or a daemon of another version


def _gpu_health(client: Client) -> dict[str, tuple[str, str]]:
    try:
        gpus = client.items("/v1/gpus")
    except CommandFailed:
        return {}
    return {text_at(gpu, "uuid"): (text_at(gpu, "health"), text_at(gpu, "reason")) for gpu in gpus}


def _changed(file: Settings, in_force: Settings) -> tuple[str, ...]:
    return tuple(name for name in type(file).model_fields if getattr(file, name) != getattr(in_force, name))


def _address(settings: Settings) -> str:
    """Where the daemon wrote down that it listens."""
    try:
        return Path(settings.paths.run_dir / "address").read_text(encoding="ascii").strip()
    except OSError:
        return ""
