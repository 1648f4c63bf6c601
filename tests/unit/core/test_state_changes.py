from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.state_changes import Picture, changes_between

_TEXTS = st.sampled_from(["{}", '{"a":1}', '{"a":2}'])
_PICTURES = st.dictionaries(
    st.sampled_from(["gpus", "workers"]), st.dictionaries(st.sampled_from("abcd"), _TEXTS, max_size=4)
)


def _name_of(text: str, picture: Picture, kind: str) -> list[str]:
    return [name for name, held in picture[kind].items() if held == text]


@given(before=_PICTURES, after=_PICTURES)
def test_what_is_put_in_and_taken_out_leads_from_one_picture_to_the_other(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> None:
    changes = changes_between(before, after)
    for kind in {*before, *after}:
        held, wanted = dict(before.get(kind, {})), after.get(kind, {})
        for name in changes.remove.get(kind, ()):
            del held[name]
        for text in changes.upsert.get(kind, ()):
            for name in _name_of(text, after, kind):
                held[name] = text
        assert held == wanted


@given(picture=_PICTURES)
def test_from_a_picture_to_itself_nothing_changes(picture: dict[str, dict[str, str]]) -> None:
    changes = changes_between(picture, picture)
    assert not changes.upsert
    assert not changes.remove


def test_only_what_changed_is_told() -> None:
    before = {"workers": {"a": "1", "b": "2", "c": "3"}, "gpus": {"g": "1"}}
    after = {"workers": {"a": "1", "b": "4", "d": "5"}, "gpus": {"g": "1"}}
    changes = changes_between(before, after)
    assert changes.upsert == {"workers": ("4", "5")}
    assert changes.remove == {"workers": ("c",)}
