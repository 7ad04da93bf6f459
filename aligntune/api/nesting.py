"""Reading what others have nested as deeply as the API server lets them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

DEEPEST_OBJECT = 10_000
"""Levels of nesting that the API server takes. Python's JSON reader counts them as recursion, and
one object that it cannot read would hide all that are listed or watched with it."""


@contextmanager
def deep_objects() -> Iterator[None]:
    """Inside, any object of the API server can be read."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(4 * DEEPEST_OBJECT)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
