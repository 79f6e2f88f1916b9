"""The measure of memory itself: what a reader takes is seen, and what the process that asks has is not."""

from __future__ import annotations

from tests.faults.peak import peak, table

MIB = 1 << 20


def test_the_peak_is_that_of_the_reader_and_of_what_it_starts():
    ballast = bytearray(b"1" * (300 * MIB))  # in use here, which a process started from here would be charged with
    small = peak("import sys; print('a line', file=sys.stderr); sys.exit(3)")
    assert (small.code, small.stderr) == (3, "a line\n") and small.bytes < 60 * MIB
    assert 150 * MIB < peak("b'1' * (150 << 20)").bytes < 210 * MIB
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', \"b'1' * (150 << 20)\"])"
    assert 150 * MIB < peak(inner).bytes < 210 * MIB
    assert len(ballast) == 300 * MIB


def test_a_reader_without_end_is_told_apart():
    assert peak("while True: pass", seconds=0.5).code is None
    assert table([("endless", "while True: pass"), ("none", "raise SystemExit('no')")], 0.5).splitlines()[2].endswith("  no")
