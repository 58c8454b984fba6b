"""Helpers that tests of several folders share, imported as `tests.support.NAME`; a folder's own helpers lie beside its tests."""
