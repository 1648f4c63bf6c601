# ruff: noqa: E501 - the corpus is a table
"""Requests that two readers could read differently: each is to be refused, and its connection closed.

Each is a whole stream: the malformed request, and after it a well-formed one for `/smuggled` that a
reader who ends the first one elsewhere would answer.
"""

from __future__ import annotations

KEY = b"Authorization: Bearer gpud_test_key\r\n"
SMUGGLED = b"GET /e/llm/smuggled HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n"
_HOST = b"Host: gpud.test\r\n"


def _with(fields: bytes, body: bytes = b"", *, line: bytes = b"POST /e/llm/x HTTP/1.1\r\n") -> bytes:
    return line + _HOST + KEY + fields + b"\r\n" + body + SMUGGLED


def _line(line: bytes) -> bytes:
    return line + b"\r\n" + _HOST + KEY + b"\r\n" + SMUGGLED


def _chunked(body: bytes) -> bytes:
    return _with(b"Transfer-Encoding: chunked\r\n", body)


def _request_lines() -> dict[str, bytes]:
    lines = [
        b"GET /e/llm/x HTTP/1.2", b"GET /e/llm/x HTTP/2.0", b"GET /e/llm/x HTTP/0.9", b"GET /e/llm/x HTTP/3.0",
        b"GET /e/llm/x HTTP/1.11", b"GET /e/llm/x HTTP/11.1", b"GET /e/llm/x HTTP/1,1", b"GET /e/llm/x HTTP/1.",
        b"GET /e/llm/x HTTP/.1", b"GET /e/llm/x HTTP/1", b"GET /e/llm/x http/1.1", b"GET /e/llm/x Http/1.1",
        b"GET /e/llm/x HTTPS/1.1", b"GET /e/llm/x RTSP/1.0", b"GET /e/llm/x ICE/1.0", b"GET /e/llm/x ICY/1.1",
        b"GET /e/llm/x HTTP/1.1 ", b"GET /e/llm/x HTTP/1.1\t", b"GET /e/llm/x  HTTP/1.1", b"GET  /e/llm/x HTTP/1.1",
        b" GET /e/llm/x HTTP/1.1", b"\tGET /e/llm/x HTTP/1.1", b"GET\t/e/llm/x HTTP/1.1", b"GET /e/llm/x\tHTTP/1.1",
        b"GET /e/llm/x y HTTP/1.1", b"GET /e/llm/x", b"GET", b"GET HTTP/1.1", b"/e/llm/x HTTP/1.1",
        b"get /e/llm/x HTTP/1.1", b"Get /e/llm/x HTTP/1.1", b"G\x00ET /e/llm/x HTTP/1.1", b"GET\x0b/e/llm/x HTTP/1.1",
        b"FROB /e/llm/x HTTP/1.1", b"GET\xa0/e/llm/x HTTP/1.1", b"\xef\xbb\xbfGET /e/llm/x HTTP/1.1",
        b"GET e/llm/x HTTP/1.1", b"GET ../e/llm/x HTTP/1.1", b"GET #/e/llm/x HTTP/1.1", b"GET /e/llm/x#y HTTP/1.1",
        b"GET /e/llm/\x00 HTTP/1.1", b"GET /e/llm/\x01 HTTP/1.1", b"GET /e/llm/\x7f HTTP/1.1",
        b"GET /e/llm/\xff HTTP/1.1", b"GET /e/llm/\xc3\xa9 HTTP/1.1", b"GET ftp://x/e/llm/x HTTP/1.1",
        b"GET http:///e/llm/x HTTP/1.1", b"GET http://user@x/e/llm/x HTTP/1.1", b"GET http:/e/llm/x HTTP/1.1",
        b"GET * HTTP/1.1", b"CONNECT x:80 HTTP/1.1", b"CONNECT /e/llm/x HTTP/1.1", b"PRI * HTTP/2.0",
        b"GET http://x\\y/e/llm/x HTTP/1.1", b'GET http://"x"/e/llm/x HTTP/1.1', b"\x16\x03\x01\x02\x00\x01\x00",
    ]  # fmt: skip
    return {f"request line {line!r}": _line(line) for line in lines}


def _field_names() -> dict[str, bytes]:
    cases = {}
    for delimiter in b'"(),/;<=>?@[\\]{} \t':
        cases[f"name with {chr(delimiter)!r}"] = _with(b"X%cY: 1\r\n" % delimiter)
    for control in (*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F, 0x80, 0xA0, 0xFF):
        cases[f"name with byte {control:#04x}"] = _with(b"X%cY: 1\r\n" % control)
    cases["empty name"] = _with(b": 1\r\n")
    cases["no colon"] = _with(b"Chunked\r\n")
    cases["space before colon"] = _with(b"Content-Length : 3\r\n", b"abc")
    cases["tab before colon"] = _with(b"Content-Length\t: 3\r\n", b"abc")
    cases["space before coding's colon"] = _with(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n")
    cases["space before first field"] = b"GET /e/llm/x HTTP/1.1\r\n " + _HOST + KEY + b"\r\n" + SMUGGLED
    return cases


def _field_values() -> dict[str, bytes]:
    cases = {}
    for control in (*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F):
        cases[f"value with byte {control:#04x}"] = _with(b"X: a%cb\r\n" % control)
    cases["folded line, space"] = _with(b"X: a\r\n b\r\n")
    cases["folded line, tab"] = _with(b"X: a\r\n\tb\r\n")
    cases["folded length"] = _with(b"Content-Length:\r\n 3\r\n", b"abc")
    cases["folded coding"] = _with(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n")
    return cases


def _line_ends() -> dict[str, bytes]:
    head = b"GET /e/llm/x HTTP/1.1\r\n" + _HOST + KEY
    return {
        "bare LF after the request line": b"GET /e/llm/x HTTP/1.1\n" + _HOST + KEY + b"\r\n" + SMUGGLED,
        "bare CR after the request line": b"GET /e/llm/x HTTP/1.1\r" + _HOST + KEY + b"\r\n" + SMUGGLED,
        "bare LF after a field": head + b"X: 1\nY: 2\r\n\r\n" + SMUGGLED,
        "bare CR after a field": head + b"X: 1\rY: 2\r\n\r\n" + SMUGGLED,
        "bare LF before a length": head + b"X: 1\nContent-Length: 3\r\n\r\nabc" + SMUGGLED,
        "bare CR before a length": head + b"X: 1\rContent-Length: 3\r\n\r\nabc" + SMUGGLED,
        "bare LF before a coding": head + b"X: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        "head ends in LF LF": b"GET /e/llm/x HTTP/1.1\nHost: x\n\n" + SMUGGLED,
        "head ends in CRLF LF": head + b"\n" + SMUGGLED,
        "head ends in LF CRLF": head + b"X: 1\n\r\n" + SMUGGLED,
        "head ends in CR CR": head + b"X: 1\r\r" + SMUGGLED,
        "CR CR LF": head + b"X: 1\r\r\n\r\n" + SMUGGLED,
        "LF CR": head + b"X: 1\n\r\n\r\n" + SMUGGLED,
        "leading bare LF": b"\n" + head + b"\r\n" + SMUGGLED,
        "leading bare CR": b"\r" + head + b"\r\n" + SMUGGLED,
        "leading NUL": b"\0" + head + b"\r\n" + SMUGGLED,
        "many leading empty lines": b"\r\n" * 8 + head + b"\r\n" + SMUGGLED,
        "only LFs": b"\n\n\n\n" + SMUGGLED,
    }


def _lengths() -> dict[str, bytes]:
    values = [
        b"", b"+3", b"-3", b"-0", b"0x3", b"3 ,3", b"3, 3", b"3,3", b"3,4", b"3 3", b"3;", b"3.0", b"3e0", b"03x",
        b"3\x0b", b"\x0b3", b"3\x0c", b"three", b"0,3", b",3", b"3,", b'"3"', b"'3'", b"1_0", b"\xef\xbc\x93",
        b"18446744073709551616", b"18446744073709551619", b"9223372036854775808", b"99999999999999999999999999",
        b"-18446744073709551613", b"3 chunked", b"NaN", b"inf", b"\xb2",
    ]  # fmt: skip
    cases = {f"length {value!r}": _with(b"Content-Length: " + value + b"\r\n", b"abc") for value in values}
    twice = [(b"3", b"3"), (b"3", b"4"), (b"0", b"3"), (b"3", b"0"), (b"3", b"+3"), (b"3", b"")]
    for one, two in twice:
        fields = b"Content-Length: " + one + b"\r\nContent-Length: " + two + b"\r\n"
        cases[f"lengths {one!r} and {two!r}"] = _with(fields, b"abc")
    cases["lengths in two spellings"] = _with(b"Content-Length: 3\r\ncontent-length: 5\r\n", b"abc")
    return cases


def _codings() -> dict[str, bytes]:
    values = [
        b"", b"identity", b"gzip", b"xchunked", b"chunkedx", b"chunked, identity", b"identity, chunked",
        b"chunked, gzip", b"gzip, chunked", b"chunked, chunked", b"chunked,", b",chunked", b"chunked;q=1",
        b'"chunked"', b"chun ked", b"chunked chunked", b"\x0bchunked", b"chunked\x0b", b"chunked\x00", b"\xa0chunked",
        b"deflate, chunked", b"compress", b"chunk", b"cow", b"x, chunked", b"chunked\xff", b"Chunked, Chunked",
    ]  # fmt: skip
    body = b"0\r\n\r\n"
    cases = {f"coding {value!r}": _with(b"Transfer-Encoding: " + value + b"\r\n", body) for value in values}
    pairs = [
        (b"chunked", b"chunked"),
        (b"chunked", b"identity"),
        (b"identity", b"chunked"),
        (b"gzip", b"chunked"),
    ]
    for one, two in pairs:
        fields = b"Transfer-Encoding: " + one + b"\r\nTransfer-Encoding: " + two + b"\r\n"
        cases[f"codings {one!r} and {two!r}"] = _with(fields, body)
    both = (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: 5\r\ntransfer-encoding: gzip, chunked\r\n",
        b"Content-Length: 5\r\nX: y\r\nTransfer-Encoding: chunked\r\n",
    )
    cases.update({f"length beside coding {fields!r}": _with(fields, body) for fields in both})
    old = _with(b"Transfer-Encoding: chunked\r\n", body, line=b"POST /e/llm/x HTTP/1.0\r\n")
    cases["coding in HTTP/1.0"] = old
    return cases


def _chunks() -> dict[str, bytes]:
    bodies = [
        b"g\r\n", b"-1\r\nx\r\n0\r\n\r\n", b"+1\r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b" 1\r\nx\r\n0\r\n\r\n",
        b"1 \r\nx\r\n0\r\n\r\n", b"\t1\r\nx\r\n0\r\n\r\n", b"1\t\r\nx\r\n0\r\n\r\n", b"1,\r\nx\r\n0\r\n\r\n",
        b"\r\n1\r\nx\r\n0\r\n\r\n", b"\r\n", b"1\nx\r\n0\r\n\r\n", b"1\rx\r\n0\r\n\r\n", b"1\r\nx\n0\r\n\r\n",
        b"1\r\nx\r0\r\n\r\n", b"1\r\nxy\r\n0\r\n\r\n", b"2\r\nx\r\n0\r\n\r\n", b"1\r\nx0\r\n\r\n",
        b"1\r\n\r\n0\r\n\r\n0\r\n\r\n", b"1\r\nx\r\n0\n\n", b"1\r\nx\r\n0\r\r", b"1\r\nx\r\n0\r\n\n", b"1\r\nx\r\n0\r\n\r\r",
        b"1\r\nx\r\n0\r\nX y\r\n\r\n", b"1\r\nx\r\n0\r\n: y\r\n\r\n", b"1\r\nx\r\n0\r\nX : y\r\n\r\n",
        b"1\r\nx\r\n0\r\nX: y\nZ: 1\r\n\r\n", b"1\r\nx\r\n0\r\nX: y\rZ: 1\r\n\r\n", b"1\r\nx\r\n0\r\nX: y\r\n z\r\n\r\n",
        b"1\r\nx\r\n0\r\nContent-Length: 3\r\n\r\n", b"1\r\nx\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n0\r\nHost: evil\r\n\r\n", b"1\r\nx\r\n0\r\nAuthorization: Bearer evil\r\n\r\n",
        b"1\r\nx\r\n0\r\nX: \x00\r\n\r\n", b"1\r\nx\r\n0\r\nX\x00: y\r\n\r\n",
        b"10000000000000001\r\nx\r\n0\r\n\r\n", b"ffffffffffffffff\r\nx\r\n0\r\n\r\n", b"0000000000000000001\r\nx\r\n0\r\n\r\n",
        b"1;\x00\r\nx\r\n0\r\n\r\n", b"1;a=\x01\r\nx\r\n0\r\n\r\n", b"1;a\nb\r\nx\r\n0\r\n\r\n", b"1;a\rb\r\nx\r\n0\r\n\r\n",
        b"1 ;a\r\nx\r\n0\r\n\r\n", b"1;" + b"a" * 300 + b"\r\nx\r\n0\r\n\r\n", b"1;" + b"a" * 70_000,
        b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 4000 + b"\r\n", (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 200 + b"0\r\n\r\n",
        b"1\r\nx\r\n0;\nX: y\r\n\r\n", b"\x00\r\n\r\n", b"\xff\r\n", b"1\xa0\r\nx\r\n0\r\n\r\n", b"1\x0b\r\nx\r\n0\r\n\r\n",
        b"one\r\nx\r\n0\r\n\r\n", b"1.0\r\nx\r\n0\r\n\r\n", b"1_0\r\nx\r\n0\r\n\r\n", b"\xd9\xa1\r\nx\r\n0\r\n\r\n",
    ]  # fmt: skip
    return {f"chunks {body[:40]!r} ({i})": _chunked(body) for i, body in enumerate(bodies)}


def _hosts() -> dict[str, bytes]:
    line = b"GET /e/llm/x HTTP/1.1\r\n"
    fields = {
        "no host": b"",
        "two hosts": b"Host: a\r\nHost: b\r\n",
        "the same host twice": b"Host: a\r\nHost: a\r\n",
        "two hosts in two spellings": b"Host: a\r\nhost: b\r\n",
        "host with a path": b"Host: a/b\r\n",
        "host with a user": b"Host: a@b\r\n",
        "host with a space": b"Host: a b\r\n",
        "host with a tab": b"Host: a\tb\r\n",
        "host with a query": b"Host: a?b\r\n",
        "host with a fragment": b"Host: a#b\r\n",
        "host with a backslash": b"Host: a\\b\r\n",
        "host with a quote": b'Host: "a"\r\n',
        "host with 8-bit bytes": b"Host: \xff\r\n",
        "host with angle brackets": b"Host: <a>\r\n",
    }
    return {name: line + field + KEY + b"\r\n" + SMUGGLED for name, field in fields.items()}


def _limits() -> dict[str, bytes]:
    return {
        "a long target": _line(b"GET /e/llm/" + b"x" * 17_000 + b" HTTP/1.1"),
        "a long field": _with(b"X: " + b"y" * 70_000 + b"\r\n"),
        "a long name": _with(b"X" * 70_000 + b": y\r\n"),
        "many fields": _with(b"X: y\r\n" * 200),
        "an endless head": b"GET /e/llm/x HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        "an unmet expectation": _with(b"Expect: 200-ok\r\nContent-Length: 3\r\n", b"abc"),
    }


MALFORMED = (
    _request_lines()
    | _field_names()
    | _field_values()
    | _line_ends()
    | _lengths()
    | _codings()
    | _chunks()
    | _hosts()
    | _limits()
)
