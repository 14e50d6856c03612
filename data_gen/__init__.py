"""Data with known truth: exactly four features, and the smallest loss that any model can reach.

- `generate`: rows of a kind → shards whose manifest carries the `Truth`.
- `kinds.KINDS`: friedman2, friedman3, linear, teacher; one small file a family.

>>> sorted(KINDS)
['friedman2', 'friedman3', 'linear', 'teacher']
"""

from data_gen.generate import generate
from data_gen.kinds import KINDS

__all__ = ["KINDS", "generate"]
