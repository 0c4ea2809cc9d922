from typing import Any

from numpy.typing import NDArray

def count(
    level: NDArray[Any],
    slices: int,
    rows: int,
    columns: int,
    levels: int,
    grey: NDArray[Any],
    flat: bool,
    pairs: NDArray[Any],
    runs: NDArray[Any],
    dependence: NDArray[Any],
    tones: NDArray[Any],
    zones: NDArray[Any],
    /,
) -> int: ...
