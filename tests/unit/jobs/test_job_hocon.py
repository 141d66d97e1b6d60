"""HOCON as job folders use it, and what more of it is refused with its line."""

import pytest
from clouddeploy_runtime.jobs import hocon


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        ("a = 1", {"a": 1}),
        ("{a: 1, b = 2}", {"a": 1, "b": 2}),
        ("a = 1\nb = 2,\nc = 3,", {"a": 1, "b": 2, "c": 3}),
        ('# comment\n// another\na = "x" # more\n', {"a": "x"}),
        ("a { b = 1 }\na.c = 2", {"a": {"b": 1, "c": 2}}),
        ("a\n{ b = 1 }", {"a": {"b": 1}}),
        ("a = {b = 1}\na = {c = {d = 2}}\na.c.e = 3", {"a": {"b": 1, "c": {"d": 2, "e": 3}}}),
        ("a = 1\na = {b = 2}\na = [3]", {"a": [3]}),
        ('"a.b" = 1\na."c.d".e = 2', {"a.b": 1, "a": {"c.d": {"e": 2}}}),
        ("a = [1, 2\n3\n,]", {"a": [1, 2, 3]}),
        ("a = [{b = 1}\n{b = 2},]", {"a": [{"b": 1}, {"b": 2}]}),
        ("[1, 2]", [1, 2]),
        ("a = true\nb = null\nc = -1.5e3\nd = yes no", {"a": True, "b": None, "c": -1500.0, "d": "yes no"}),
        ("path = net.Net\nversion = 1.2.3\nnot = 01", {"path": "net.Net", "version": "1.2.3", "not": "01"}),
        ('a = "x\\n{app_script}" tail', {"a": "x\n{app_script} tail"}),
        ('a = """two\nlines with "quotes""""', {"a": 'two\nlines with "quotes"'}),
        ('a = "http://x/#y"', {"a": "http://x/#y"}),
        ("a.b.c : { }", {"a": {"b": {"c": {}}}}),
    ],
)
def test_what_job_folders_say_is_read(text, value):
    assert hocon.parse(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = ${a}", "line 2: ${…}"),
        ('a = "x" ${b}', "${…}"),
        ('include "other.conf"', "include"),
        ("a = 1\na += 2", "line 2: +="),
        ("a", "a has no value"),
        ("a =", "a value is missing"),
        ("a = {b = 1", "the text ends early"),
        ("a = [1, 2", "the text ends early"),
        ("a = [1, 2 [3]", "put the text into quotes"),
        ("a = [[1] 2]", "where a comma or a new line stands"),
        ("a = 1 }", "'}' where a comma or a new line stands"),
        ("{a = 1} b", "'b' after the end"),
        ("a = {b = 1} {c = 2}", "two values side by side"),
        ('a = "no end', "put the text into quotes"),
        ('a = "\\x"', "is no text"),
        ("a..b = 1", "an empty part"),
        ("a = b = c", "'=' in a value"),
        ("a = " + "[" * 100_000, "more than 64 levels"),
        ("a." * 100 + "a = 1", "more than 64 levels"),
    ],
)
def test_what_is_not_read_is_refused_with_its_line(text, message):
    with pytest.raises(hocon.NotHocon) as refused:
        hocon.parse(text)
    assert message in str(refused.value)
    assert str(refused.value).startswith("line ")
