"""Factories for `--model tests.training.modules:name`.

Some train, some construct modules that are refused, and some fail.
"""

import torch
from torch import nn


def linear(n):
    return nn.Linear(n, 1)


def mlp(n):
    return nn.Sequential(nn.Linear(n, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def normed(n):
    return nn.Sequential(nn.Linear(n, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 1))


def frozen(n):
    first = nn.Linear(n, 8).requires_grad_(False)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(8, 1))


class Fourier(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_buffer("waves", torch.randn(n, 8))
        self.out = nn.Linear(8, 1)

    def forward(self, x):
        return self.out(torch.sin(x @ self.waves))


class Tied(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first, self.back = nn.Linear(n, n), nn.Linear(n, n)
        self.back.weight = self.first.weight
        self.out = nn.Linear(n, 1)

    def forward(self, x):
        return self.out(self.back(torch.tanh(self.first(x))))


class Looks(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.out = nn.Linear(n, 1)

    def forward(self, x):
        return self.out(x) * (1.0 if self.out.weight.sum() > -1e9 else 2.0)


def batchnorm(n):
    return nn.Sequential(nn.Linear(n, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def dropout(n):
    return nn.Sequential(nn.Linear(n, 4), nn.Dropout(), nn.Linear(4, 1))


class Mixes(Looks):
    def forward(self, x):
        return self.out(x - x.mean(dim=0))


class Counts(Looks):
    def __init__(self, n):
        super().__init__(n)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.out(x)


def nothing(n):
    return None


def wide(n):
    return nn.Linear(n, 2)


def double(n):
    return nn.Linear(n, 1).double()


def still(n):
    return nn.Identity()


def broken(n):
    raise KeyError("x")
