"""What of a document or a log may leave the box: everything but values that are, or may be, secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpud.core.redaction import REDACTED, Redactor, is_secret_name

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = REDACTED.decode()

_VALUES_HIDDEN_IN = frozenset({"env", "environment", "headers"})
"""Maps whose names may be told, and whose values may be anything."""
_HIDDEN = frozenset({"authorization", "cookie", "x-gpud-key", "username", "url", "registry_auth"})
_NAMES = re.compile(r"^(input|output|result|payload|body|webhook|content)$", re.IGNORECASE)
_BEGIN = rb"(?:\b|(?<=\\[nrtbf]))"
"""Of a word, also after a line break as JSON spells it."""
_PLAIN_LITERALS = (
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(_BEGIN + rb"(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(rb"(?<=://)[^/\s:@\"']*:[^/\s\"']+(?=@)"),
    re.compile(_BEGIN + rb"whsec_[A-Za-z0-9+/=_-]{8,}"),
    re.compile(
        _BEGIN + rb"(?:hf|sk|pk|rk|ghp|gho|ghs|ghu|glpat|xox[abprs]|dckr_pat|nvapi)[-_][A-Za-z0-9_-]{12,}"
    ),
    re.compile(_BEGIN + rb"github_pat_[A-Za-z0-9_]{12,}"),
    re.compile(_BEGIN + rb"AKIA[0-9A-Z]{12,}"),
    re.compile(_BEGIN + rb"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    re.compile(rb"(?:(?<![0-9a-f])|(?<=\\[bf]))[0-9a-f]{48}(?![0-9a-f])"),
)
"""Secrets that are known by their spelling. 48 hex digits are the token of a worker."""
_ASSIGNED = re.compile(
    rb"(?i)((?:\\?[\"'])?(?<![\w.-])[\w.-]*"
    rb"(?:passw(?:or)?d|passphrase|secret|token|credential|(?:api|access|private|signing|encryption)[_-]?key)"
    rb"[\w.-]*"
    rb"(?:\\?[\"'])?\s*[=:]\s*)"
    rb"(\\\"(?:(?!\\\").)*\\\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&\"'\\}]+)"
)
"""A name of a secret with its value: as JSON, as JSON within JSON, as a variable, as part of a query.

A name is looked for once from the beginning of its word: from each letter of it, a long word takes minutes.
"""
_ALLOWED_AFTER = frozenset({b"null", b"none", b"true", b"false", b'""', b"''", b"[]", b"{}"})
_COUNTS = re.compile(rb"\d{1,10}")


def without_secrets(document: object) -> tuple[object, tuple[str, ...]]:
    """A document without its values that may be secret, and those values, to be looked for elsewhere.

    The values of an environment are all hidden, for a name does not tell everything; so are what follows an
    option with the name of a secret on a command line, and fields with such names.
    """
    found: list[str] = []
    shown = _shown(document, found)
    return shown, tuple(dict.fromkeys(found))


def _shown(document: object, found: list[str]) -> object:
    if isinstance(document, dict):
        return {name: _field(str(name), value, found) for name, value in document.items()}
    if isinstance(document, (list, tuple)):
        before = [None, *document][: len(document)]
        return [
            _hidden(item, found) if _names_secret(option) else _shown(item, found)
            for option, item in zip(before, document, strict=True)
        ]
    return document


def _field(name: str, value: object, found: list[str]) -> object:
    lowered = name.lower()
    if lowered in _VALUES_HIDDEN_IN:
        return _hidden(value, found)
    if lowered in _HIDDEN or _NAMES.match(name) or is_secret_name(name):
        return _hidden(value, found)
    return _shown(value, found)


def _hidden(value: object, found: list[str]) -> object:
    """Names and numbers of things may be seen, texts may not."""
    if isinstance(value, dict):
        return {name: _hidden(item, found) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item, found) for item in value]
    if isinstance(value, str) and value:
        found.append(value)
        return HIDDEN
    return value


def _names_secret(option: object) -> bool:
    is_option = isinstance(option, str) and option.startswith("-") and "=" not in option
    return is_option and is_secret_name(str(option).lstrip("-").replace("-", "_"))


class Scrubber:
    """Takes secrets out of text that is about to leave the box.

    Args:
        values: Secrets that are known; those too short to be told from words are left.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._redactor = Redactor(values)

    def clean(self, text: bytes) -> bytes:
        """Replace secrets that are known, that are spelled like one, or that follow such a name."""
        text = self._redactor.clean(text)
        for spelled in _PLAIN_LITERALS:
            text = spelled.sub(REDACTED, text)
        return _ASSIGNED.sub(_without_value, text)


def _without_value(found: re.Match[bytes]) -> bytes:
    value = found[2]
    is_count = b"token" in found[1].lower() and _COUNTS.fullmatch(value)  # Tokens are counted, passwords not.
    harmless = value.lower() in _ALLOWED_AFTER or is_count
    if harmless or REDACTED in value or value[:1] in (b"{", b"["):
        return found[0]
    quote = next((q for q in (b'\\"', b'"', b"'") if value.startswith(q)), b"")
    return found[1] + quote + REDACTED + quote
