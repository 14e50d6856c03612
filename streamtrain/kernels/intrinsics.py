"""Numba's `intrinsic` decorator, typed.

A decorated function is called without its first parameter, the typing context, which Numba passes
itself; its own annotations do not tell type checkers so.
"""

from typing import Any

import numba.extending

intrinsic: Any = numba.extending.intrinsic
