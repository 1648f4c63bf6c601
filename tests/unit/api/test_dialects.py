from __future__ import annotations

import pytest

from gpud.api.dialects import Dialect, dialect_of


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/endpoints", Dialect.GPUD),
        ("/v2", Dialect.GPUD),
        ("/e/v2/llm", Dialect.GPUD),
        ("/v2/llm/run", Dialect.RUNPOD),
        ("/v2/openai/run", Dialect.RUNPOD),
        ("/v2/llm/openai/v1/chat/completions", Dialect.OPENAI),
        ("/v2/{endpoint}/openai/{route}", Dialect.OPENAI),
    ],
)
def test_a_path_tells_whose_words_it_answers_in(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect
