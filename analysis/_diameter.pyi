from typing import Any

from numpy.typing import NDArray

def widest(points: NDArray[Any], dimensions: int, /) -> float: ...
