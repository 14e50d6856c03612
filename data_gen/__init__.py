"""Synthetic data sets with four features and an exactly known smallest possible loss.

- `generate`: write rows of a kind as shards; the manifest stores the `Truth`.
- `kinds.KINDS`: friedman2, friedman3, linear, teacher; one file per family.

>>> sorted(KINDS)
['friedman2', 'friedman3', 'linear', 'teacher']
"""

from data_gen.generate import generate
from data_gen.kinds import KINDS

__all__ = ["KINDS", "generate"]
