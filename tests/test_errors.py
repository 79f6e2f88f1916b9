"""Messages are one printable line of bounded length, whatever is put into them."""

from __future__ import annotations

import pytest

from jaxlv.errors import LONGEST, WHOLE, JaxlvError, JaxlvWarning, printable

HOSTILE = "\x1b[31mred\x07\u202egnp.exe\u2028next\r\nline\udcff\x00end"


def test_what_does_not_print_is_escaped():
    assert printable("a\x1b[2Jb") == r"a\x1b[2Jb"
    assert printable("\u202eabc") == r"\u202eabc"
    assert printable("name\udcff") == r"name\udcff"
    assert printable("lièvre 兎") == "lièvre 兎"


def test_a_text_becomes_one_line():
    assert printable(" a\n b\t\u2028c\r\n") == "a b c"


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 4 * LONGEST, 4 * LONGEST + 1, 8_000_000])
def test_a_long_text_keeps_both_ends(length):
    text = "<" + "x" * (length - 2) + ">"
    short = printable(text)
    assert short == text if length <= LONGEST else len(short) == LONGEST and " ... " in short
    assert short[0] == "<" and short[-1] == ">"


@pytest.mark.parametrize("part", ["what", "where", "expected", "found", "hint"])
def test_no_part_of_an_error_leaves_its_line(part):
    for content in (HOSTILE, HOSTILE * 400_000):
        line = str(JaxlvError(**{"what": "wrong", part: content}))
        assert line.isprintable() and len(line) <= WHOLE and r"\x1b[31m" in line


def test_all_parts_stand_in_their_order():
    error = JaxlvError("wrong", where="file.csv", expected=1, found=2, hint="look again")
    assert str(error) == "file.csv: wrong; expected 1; found 2; look again"
    assert len(str(JaxlvError("a" * 999, where="b" * 999, expected="c" * 999, found="d" * 999, hint="e" * 999))) <= WHOLE


def test_a_warning_is_one_line_too():
    assert str(JaxlvWarning(HOSTILE)) == printable(HOSTILE)


def test_a_number_that_python_does_not_write_is_no_second_error():
    assert str(JaxlvError("wrong", found=16**9000)) == "wrong; found int of too many digits to be shown"
