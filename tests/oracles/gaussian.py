"""Closed forms of Gaussian linear regression and its SGD, against which tests compare.

The notation is that of `science/oracle.py`: eigenvalues λ of the features' covariance C = H, the
error D in its eigenbasis, B the minibatch size, η the learning rate.
"""

import math

import numpy as np

from streamtrain.science.oracle import GaussianLinear
from streamtrain.science.scipy_functions import Vector


def spectral_radius(model: GaussianLinear, batch_size: float, lr: float) -> float:
    """Return the spectral radius of A; the mean square shrinks if it is below 1."""
    return float(np.abs(np.linalg.eigvalsh(model.transition(batch_size, lr)[0])).max())


def stationary_excess(model: GaussianLinear, batch_size: float, lr: float) -> float:
    """Return the mean excess loss of a stationary run; infinite beyond stability.

    It is ½σ²q/(1 - q) with q = (η/B)Σλ_i/(2 - ηλ_i(1 + (κ_i-2)/B)).
    """
    if lr >= model.largest_stable_lr(batch_size):
        return math.inf
    lam = np.asarray(model.eigenvalues, dtype=float)
    shrink = 2 - lr * lam * (1 + (np.asarray(model.kurtosis) - 2) / batch_size)
    q = lr / batch_size * (lam / shrink).sum()
    return 0.5 * model.noise_variance * q / (1 - q)


def gaussian_noise_scales(
    eigenvalues: Vector, error: Vector, noise_variance: float
) -> tuple[float, float]:
    """Return (B_simple, B_noise) at D = `error`, in the eigenbasis of C = H.

    They are 1 + 2L·tr C/|G|² and 1 + 2L·tr C²/(GᵀCG), with G = CD and L = ½(DᵀCD + σ²);
    Σ = 2L·C + GGᵀ for Gaussian features (docs/science.md §2).
    """
    lam, d = np.asarray(eigenvalues, dtype=float), np.asarray(error, dtype=float)
    gradient, twice_loss = lam * d, float(lam @ d**2) + noise_variance
    simple = 1 + twice_loss * lam.sum() / (gradient @ gradient)
    weighted = 1 + twice_loss * (lam @ lam) / (gradient @ (lam * gradient))
    return float(simple), float(weighted)


def isotropic_best_lr(eigenvalue: float, dimensions: int, batch_size: float) -> tuple[float, float]:
    """Return the best learning rate without noise and with d equal eigenvalues λ.

    It is η* = B/(B+d+1)/λ. The second value is the contraction of the excess per step,
    (d+1)/(B+d+1).
    """
    ratio = 1 / (1 + (dimensions + 1) / batch_size)
    return ratio / eigenvalue, 1 - ratio
