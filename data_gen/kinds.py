"""The kinds by name. Each is a function of the seed, but only `teacher` depends on it."""

from data_gen.friedman import friedman2, friedman3
from data_gen.linear import linear
from data_gen.teacher import teacher

KINDS = {"friedman2": friedman2, "friedman3": friedman3, "linear": linear, "teacher": teacher}
