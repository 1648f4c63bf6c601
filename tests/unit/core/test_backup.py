from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpud.core.backup import (
    Manifest,
    NoBackup,
    is_member,
    read_manifest,
    read_sums,
    refusal,
    sums_text,
    unlike,
)

_REF = "ab" * 32
_MANIFEST = Manifest(
    gpud="1.0",
    schema=10,
    install_id="0123",
    made_at="2026-01-01T00:00:00+00:00",
    host="box",
    data_dir="/var/lib/gpud",
    has_master_key=True,
    files={"gpud.toml": "/etc/gpud/gpud.toml"},
    flawed_payloads=(_REF,),
)
_names = st.text(min_size=1, max_size=20, alphabet=st.characters(exclude_categories=("Z", "C")))
_digests = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert read_manifest(_MANIFEST.document()) == _MANIFEST


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"format": 1},
        {**_MANIFEST.document(), "schema": "10"},
        {**_MANIFEST.document(), "files": 1},
    ],
)
def test_what_is_no_manifest_is_refused(document: object) -> None:
    with pytest.raises(NoBackup):
        read_manifest(document)


@pytest.mark.parametrize(("known", "refused"), [(9, True), (10, False), (11, False)])
def test_a_backup_goes_back_into_the_same_gpud_or_a_newer_one(known: int, refused: bool) -> None:
    assert bool(refusal(_MANIFEST, schema_known=known)) is refused


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("gpud.db", True),
        ("master.key", True),
        (f"blobs/ab/{_REF}", True),
        (f"blobs/cd/{_REF}", False),
        ("blobs/ab/short", False),
        ("logs/llm/1-wk_a/0001.log.gz", True),
        ("logs/../gpud.db", False),
        ("logs/./x", False),
        ("logs", False),
        ("from-backup/gpud.toml", True),
        ("from-backup/../x", False),
        ("gpud.db-wal", False),
        ("lock", False),
        ("/gpud.db", False),
        ("", False),
    ],
)
def test_only_what_a_data_directory_is_made_of_may_be_in_a_backup(name: str, fits: bool) -> None:
    assert is_member(name) is fits


@given(st.dictionaries(_names, _digests, max_size=5))
def test_hashes_are_read_as_they_were_written(sums: dict[str, str]) -> None:
    assert read_sums(sums_text(sums)) == sums
    assert unlike(sums, sums) == ""


@given(st.dictionaries(_names, _digests, max_size=4), st.dictionaries(_names, _digests, max_size=4))
def test_any_difference_is_found_and_none_is_made_up(expected: dict[str, str], seen: dict[str, str]) -> None:
    assert bool(unlike(expected, seen)) is (expected != seen)


@pytest.mark.parametrize("text", ["x", f"{_REF} name", f"{_REF}  a\n{_REF}  a\n"])
def test_a_damaged_list_of_hashes_is_refused(text: str) -> None:
    with pytest.raises(NoBackup):
        read_sums(text)
