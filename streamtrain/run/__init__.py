"""A run: prepare the data, run passes over it, measure it and confirm the winner.

`sweep` and `train` emit the records of a run, `directory` keeps them, `predict` uses the models.
"""
