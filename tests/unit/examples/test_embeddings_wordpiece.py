"""The demo model's tokenizer gives the ids that the model was trained on."""

from pathlib import Path
from typing import Any

import pytest
from minilm.wordpiece import WordPiece


@pytest.fixture(scope="module")
def tokens(embeddings_context: Path) -> WordPiece:
    return WordPiece(embeddings_context / "model/vocab.txt", tokens_max=256)


def test_ids_are_those_of_the_reference_tokenizer(tokens: WordPiece, reference: dict[str, Any]) -> None:
    for sentence, ids in zip(reference["sentences"], reference["ids"], strict=True):
        assert tokens.encode(sentence) == ids


def test_plain_text_and_text_with_accents_take_different_ways_to_the_same_ids(tokens: WordPiece) -> None:
    plain = "The cafe's menu: 3.50 (naive), don't_stop\tnow\nplease [SEP] x"
    accented = "Thé cafè's menü: 3.50 (naïve), dön't_stöp\tnow\nplease [SEP] x"
    assert tokens.encode(plain) == tokens.encode(accented)


def test_a_long_text_is_cut_and_still_marked_at_its_end(tokens: WordPiece) -> None:
    ids = tokens.encode("word " * 10_000)
    assert len(ids) == 256
    assert (ids[0], ids[-1]) == (101, 102)


def test_a_word_of_more_than_a_hundred_characters_is_unknown(tokens: WordPiece) -> None:
    assert tokens.encode("a" * 101) == [101, 100, 102]
    assert 100 not in tokens.encode("a" * 100)


def test_control_characters_and_half_a_surrogate_pair_vanish(tokens: WordPiece) -> None:
    assert tokens.encode("c\x00a\x7ft") == tokens.encode("cat")
    assert tokens.encode("c\ud800a\u200bt") == tokens.encode("cat")


def test_a_text_of_blanks_alone_is_just_the_two_marks(tokens: WordPiece) -> None:
    assert tokens.encode(" \n\t ") == [101, 102]
