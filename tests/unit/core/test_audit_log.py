from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpud.core.audit_log import digest_of

FACTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), FACTS, max_size=4))
def test_the_order_in_which_facts_are_said_does_not_count(facts: dict[str, object]) -> None:
    backwards = dict(reversed(facts.items()))
    assert digest_of(facts) == digest_of(backwards)
    assert len(digest_of(facts)) == 64


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=4), st.data())
def test_another_fact_gives_another_digest(facts: dict[str, int], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(facts)))
    assert digest_of(facts | {name: facts[name] + 1}) != digest_of(facts)


def test_nothing_has_no_digest() -> None:
    assert digest_of(None) == ""
    assert digest_of({}) != ""
