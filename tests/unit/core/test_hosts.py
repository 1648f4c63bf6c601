"""Which hosts a daemon answers to, and which pages are its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.hosts import answers_to, authority_of, is_own_page

NAMES = frozenset({"gpu.example.org", "box"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8700",
        "10.0.0.7:80",
        "[::1]",
        "[::1]:8700",
        "[2001:DB8::1]:8700",
        "localhost:8700",
        "LOCALHOST",
        "localhost.",
        "dash.localhost:8700",
        "gpu.example.org",
        "GPU.Example.org.:443",
        "box:8700",
    ],
)
def test_addresses_this_machine_and_names_that_were_set_are_answered(host: str) -> None:
    assert answers_to(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8700",
        "evil.example",
        "evil.example:8700",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "gpu.example.org.evil.example",
        "notgpu.example.org",
        "x.gpu.example.org",
        "127.0.0.1:8700:8700",
        "127.0.0.1:99999",
        "127.0.0.1:x",
        "::1",
        "[::1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "user@127.0.0.1",
        "gpu.example.org ",
    ],
)
def test_any_other_host_is_not(host: str) -> None:
    assert not answers_to(host, NAMES)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8700", "127.0.0.1:8700"),
        ("http://localhost", "localhost:80"),
        ("https://gpu.example.org", "127.0.0.1:8700"),
        ("https://gpu.example.org:8443", "gpu.example.org"),
        ("http://[::1]:8700", "[::1]:8700"),
    ],
)
def test_a_page_of_the_same_host_or_of_a_name_that_was_set_is_our_own(origin: str, host: str) -> None:
    assert is_own_page(origin, host, NAMES)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "127.0.0.1:8700"),
        ("", "127.0.0.1:8700"),
        ("file://", "127.0.0.1:8700"),
        ("http://", ""),
        ("http://localhost:3000", "localhost:8700"),
        ("http://127.0.0.1:8700", "localhost:8700"),
        ("https://evil.example", "127.0.0.1:8700"),
        ("https://evil.example/https://gpu.example.org", "gpu.example.org"),
        ("chrome-extension://gpu.example.org", "gpu.example.org"),
    ],
)
def test_any_other_page_is_not(origin: str, host: str) -> None:
    assert not is_own_page(origin, host, NAMES)


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_a_client_sends_can_be_read(origin: str, host: str) -> None:
    assert authority_of(host).port < 1 << 16
    if answers_to(host, frozenset()):
        assert authority_of(host).name
    is_own_page(origin, host, frozenset())
