from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from gpud.core.gpu import GpuAttach
from gpud.errors import BadSettings
from gpud.settings import Settings, StaticGpu, load_settings

ROOT = Path(__file__).parents[2]
EVERY_SETTING = ROOT / "gpud.toml"
REFERENCE = ROOT / "docs/reference/settings.md"


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=[a-z])", "", text, flags=re.MULTILINE)


def names() -> list[str]:
    """Every setting as `section.name`."""
    return [
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields
    ]


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "gpud.toml"


def refusal(path: Path, text: str) -> BadSettings:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadSettings) as refused:
        load_settings(path)
    assert str(path) in refused.value.detail
    return refused.value


def test_gpud_toml_as_shipped_changes_nothing() -> None:
    assert load_settings(EVERY_SETTING) == load_settings(None) == Settings()


def test_gpud_toml_uncommented_is_the_defaults(write: Path) -> None:
    write.write_text(uncommented(EVERY_SETTING.read_text(encoding="utf-8")), encoding="utf-8")
    assert load_settings(write) == Settings()


def test_gpud_toml_has_every_setting_once() -> None:
    document = tomllib.loads(uncommented(EVERY_SETTING.read_text(encoding="utf-8")))
    assert [f"{section}.{name}" for section, table in document.items() for name in table] == names()


def test_the_static_gpu_shown_in_gpud_toml_can_be_used(write: Path) -> None:
    text = EVERY_SETTING.read_text(encoding="utf-8")
    example = text[text.index("# [[gpus.static]]") :].partition("\n\n")[0]
    write.write_text(re.sub(r"^# ", "", example, flags=re.MULTILINE), encoding="utf-8")
    (gpu,) = load_settings(write).gpus.static
    assert set(gpu.model_fields_set) == set(StaticGpu.model_fields)
    assert gpu == StaticGpu(uuid=gpu.uuid)


def test_the_reference_has_every_setting() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for name in [*names(), *(f"static.{field}" for field in StaticGpu.model_fields)]:
        assert f"| `{name.partition('.')[2]}` |" in text


def test_gpud_toml_and_the_reference_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/lib/docs.py", "settings", "--check"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_a_file_says_is_used(write: Path) -> None:
    write.write_text(
        """
        [server]
        listen = "[::1]:9000"
        [paths]
        data_dir = "/srv/gpud"
        volume_roots = ["/models", "/data"]
        [gpus]
        source = "static"
        attach = "none"
        [[gpus.static]]
        uuid = "card-0"
        [[gpus.static]]
        uuid = "card-1"
        memory_mib = 8192
        """,
        encoding="utf-8",
    )
    settings = load_settings(write)
    assert settings.server.listen == "[::1]:9000"
    assert settings.paths.data_dir == Path("/srv/gpud")
    assert settings.paths.volume_roots == (Path("/models"), Path("/data"))
    assert settings.gpus.attach is GpuAttach.NONE
    assert [(gpu.uuid, gpu.memory_mib) for gpu in settings.gpus.static] == [
        ("card-0", 24_576),
        ("card-1", 8192),
    ]
    assert settings.docker == Settings().docker


def test_a_file_that_is_not_there_is_named(write: Path) -> None:
    with pytest.raises(BadSettings, match=r"does not exist\. Give another file with --config") as refused:
        load_settings(write)
    assert str(write) in refused.value.detail


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read"):
        load_settings(tmp_path)


def test_a_file_that_is_not_text_is_refused(write: Path) -> None:
    write.write_bytes(b'[server]\nlisten = "\xff\xfe"\n')
    with pytest.raises(BadSettings, match="cannot be read"):
        load_settings(write)


def test_bad_toml_is_refused_with_its_line(write: Path) -> None:
    refused = refusal(write, "[server]\nlisten = 127.0.0.1:8700\n")
    assert "not valid TOML" in refused.detail
    assert "line 2" in refused.detail


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[server]\nlisen = '127.0.0.1:1'", "server.lisen"),
        ("[sever]\nlisten = '127.0.0.1:1'", "sever"),
        ("verbose = true", "verbose"),
        ("[[gpus.static]]\nuuid = 'card-0'\nmemory_mb = 1", "gpus.static.0.memory_mb"),
    ],
)
def test_a_name_nobody_knows_is_refused_by_name(write: Path, text: str, field: str) -> None:
    refused = refusal(write, text)
    assert refused.fields == {field: "unknown setting; see docs/reference/settings.md for the names"}
    assert f"{field}: unknown setting" in refused.detail


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("[server]\nshutdown_timeout_s = -1", "server.shutdown_timeout_s", "greater than or equal to 0"),
        ("[server]\nshutdown_timeout_s = 3601", "server.shutdown_timeout_s", "less than or equal to 3600"),
        ("[server]\nlisten = '8700'", "server.listen", "host:port"),
        ("[docker]\nparallel_starts = 1.5", "docker.parallel_starts", "integer"),
        ("[docker]\nstop_policy = 'kill'", "docker.stop_policy", "'keep' or 'drain'"),
        ("[gpus]\nattach = 'runtime'", "gpus.attach", "'auto', 'device_request', 'cdi' or 'none'"),
        ("[prices]\ncurrency = 'Dollar'", "prices.currency", "three capital letters"),
        ("[log]\nrequests = 'sometimes'", "log.requests", "boolean"),
        ("[[gpus.static]]\nname = 'A card'", "gpus.static.0.uuid", "required"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name_and_reason(
    write: Path, text: str, field: str, why: str
) -> None:
    refused = refusal(write, text)
    assert list(refused.fields) == [field]
    assert why in refused.fields[field]
    assert field in refused.detail


def test_every_fault_of_a_file_is_told_at_once(write: Path) -> None:
    refused = refusal(write, "[server]\nlisen = 1\nbody_bytes_max = 1\n[log]\nlevel = 'loud'\n")
    assert set(refused.fields) == {"server.lisen", "server.body_bytes_max", "log.level"}


@pytest.mark.parametrize("listen", ["0.0.0.0:8700", "[::]:8700", "192.0.2.7:8700", "gpu-box.example:8700"])
def test_an_address_others_can_reach_needs_a_word(write: Path, listen: str) -> None:
    refused = refusal(write, f"[server]\nlisten = '{listen}'\n")
    assert "keys would travel in the clear" in refused.detail
    assert "server.insecure = true" in refused.detail
    write.write_text(f"[server]\nlisten = '{listen}'\ninsecure = true\n", encoding="utf-8")
    assert load_settings(write).server.listen == listen


def test_an_address_others_can_reach_is_fine_with_tls(write: Path) -> None:
    write.write_text(
        "[server]\nlisten = '0.0.0.0:443'\ntls_cert = '/c.pem'\ntls_key = '/k.pem'\n", encoding="utf-8"
    )
    assert load_settings(write).server.tls_cert == "/c.pem"


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_a_certificate_needs_its_key(write: Path, half: str) -> None:
    assert "set both, or neither" in refusal(write, f"[server]\n{half} = '/x.pem'\n").detail


@pytest.mark.parametrize("domain", ["gpu.example.org", "localhost", "a-b.c1"])
def test_a_domain_is_a_name_in_lower_case(write: Path, domain: str) -> None:
    write.write_text(f"[server]\ndomain = '{domain}'\n", encoding="utf-8")
    assert load_settings(write).server.domain == domain


@pytest.mark.parametrize("domain", ["GPU.example.org", ".example.org", "example.org.", "a b", "https://a"])
def test_anything_else_is_no_domain(write: Path, domain: str) -> None:
    refused = refusal(write, f"[server]\ndomain = '{domain}'\n")
    assert "must be a domain name" in refused.fields["server.domain"]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:8700", "localhost:8700"])
def test_an_address_of_this_machine_needs_none(write: Path, listen: str) -> None:
    write.write_text(f"[server]\nlisten = '{listen}'\n", encoding="utf-8")
    assert load_settings(write).server.listen == listen


def test_static_gpus_are_declared_when_they_are_the_source(write: Path) -> None:
    refused = refusal(write, "[gpus]\nsource = 'static'\n")
    assert "no [[gpus.static]] is declared" in refused.detail


def test_two_static_gpus_never_share_a_uuid(write: Path) -> None:
    refused = refusal(write, "[[gpus.static]]\nuuid = 'card-0'\n[[gpus.static]]\nuuid = 'card-0'\n")
    assert "two GPUs have the same uuid" in refused.detail


def test_two_budgets_of_one_kind_for_the_same_owner_are_refused_by_name(write: Path) -> None:
    """They would share what was told of them, and only the smaller could ever decide."""
    limit = '[[budgets.limits]]\nendpoint = "llm"\nper = "day"\n'
    refused = refusal(write, f"{limit}gpu_s = 60\n{limit}gpu_s = 90\n")
    assert "endpoint llm gpu time a day" in refused.detail
    write.write_text(f"{limit}gpu_s = 60\n{limit}micros = 90\n")
    assert len(load_settings(write).budgets.limits) == 2
