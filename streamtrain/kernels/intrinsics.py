"""Numba's `intrinsic` decorator, typed.

A decorated function is called without its first parameter, the typing context, which Numba passes
itself. Numba's annotations hide this from type checkers.
"""

from typing import Any

import numba.extending

intrinsic: Any = numba.extending.intrinsic
