"""A small cache of what is dear to make again: decoded slices, outlines, results."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """The values used last, up to `limit` by their own sizes. Safe for threads; a value may be made twice."""

    def __init__(self, limit: int, size: Callable[[T], int]) -> None:
        self._limit, self._size = limit, size
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._sum = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not held. An error of `make` is passed on and nothing is kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = make()
        with self._lock:
            if key not in self._held and self._size(value) <= self._limit:
                self._held[key] = value
                self._sum += self._size(value)
            while self._sum > self._limit:
                self._sum -= self._size(self._held.popitem(last=False)[1])
        return value

    @property
    def used(self) -> int:
        """Sum of the sizes held."""
        return self._sum
