"""Bugs put into the library one at a time, to see which of them a test notices; run by `python -m tests.mutants`."""
