import numpy as np
from numpy.typing import NDArray

def widest(points: NDArray[np.float64], dimensions: int, /) -> float: ...
