"""The templates that come with gpud are specs it accepts, and commands find them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpud.api.parsing import document_from
from gpud.api.schemas.spec import EndpointSpecDocument
from gpud.cli import exits, templates
from gpud.core.endpoint import EndpointType
from gpud.core.step_policy import hooks_of
from tests.unit.cli import documents
from tests.unit.cli.canned import CannedDaemon, json_reply

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Gpud

ROOT = Path(__file__).resolve().parents[3]
COMMON = {"vllm", "sglang", "llama-cpp", "tei", "whisper", "comfyui", "ollama", "triton", "runpod-vllm"}


def test_the_folder_of_examples_shows_the_same_templates() -> None:
    assert {file.stem for file in (ROOT / "config" / "templates").glob("*.toml")} == set(templates.names())
    assert set(templates.names()) >= COMMON


@pytest.mark.parametrize("name", templates.names())
def test_a_template_is_a_spec_that_gpud_accepts(name: str) -> None:
    document = tomllib.loads(templates.text_of(name))
    spec = document_from(json.dumps(document).encode(), EndpointSpecDocument).to_spec()
    assert spec.name == name
    assert spec.image.rpartition("/")[2].partition(":")[2] not in ("", "latest")
    assert spec.gpus.count == 1
    assert spec.volumes  # What was fetched once is kept.
    assert spec.port or spec.type is EndpointType.QUEUE
    if spec.sleep.on:
        assert hooks_of(spec.sleep).wake.path
        assert spec.sleep.host_memory_mib
        assert spec.sleep.after_idle_s < spec.scale.idle_timeout_s


def test_templates_are_listed_with_what_they_are_for(gpud: Gpud) -> None:
    ran = gpud("template", "ls")
    assert ran.code == 0
    for name in COMMON:
        line = next(line for line in ran.out.splitlines() if line.startswith(f"{name} "))
        assert ":" in line.split()[1]
        assert len(line.split()) > 3


def test_a_shown_template_is_the_file_itself(gpud: Gpud) -> None:
    shown = gpud("template", "show", "vllm")
    assert shown.out == (ROOT / "config" / "templates" / "vllm.toml").read_text()
    assert json.loads(gpud("template", "show", "vllm", "--json").out) == tomllib.loads(shown.out)


def test_options_come_on_top_of_a_template(gpud: Gpud, daemon: CannedDaemon) -> None:
    daemon.on("PUT", "/v1/endpoints/chat", json_reply(documents.endpoint()))
    assert gpud("deploy", "--template", "vllm", "--name", "chat", "--max-workers", "7").code == 0
    base = tomllib.loads(templates.text_of("vllm"))
    assert daemon.seen[0].document == base | {"name": "chat", "scale": base["scale"] | {"max_workers": 7}}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["template", "show", "vlm"], "Did you mean vllm?"),
        (["template", "show", "../vllm"], "gpud has no template '../vllm'"),
        (["deploy", "--template", "nothing-like-it"], "See gpud template ls."),
        (["deploy", "--template", "vllm", "--file", "x.toml"], "not both"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(words: list[str], says: str, gpud: Gpud) -> None:
    ran = gpud(*words)
    assert ran.code == exits.BAD_USAGE
    assert says in ran.err
