"""Stability of training: the curvature above which a step of a given learning rate no longer
shrinks an error.

Lines of curvature for full batches; for SGD on the Gaussian linear model the exact mean-square
boundary stands in `oracle.py`.
"""

from streamtrain.errors import ConfigError


def stable_curvature(
    optimizer: str, lr: float, *, momentum: float = 0.0, nesterov: bool = False, beta1: float = 0.9
) -> float:
    """The largest stable λ of full-batch training on a quadratic; Adam's is of the preconditioned
    Hessian.

    Gradient descent 2/η; heavy ball (2 + 2β)/η (Polyak 1964), with Nesterov's look ahead (2 +
    2β)/((1 + 2β)η) (both: Cohen et al. 2021, arXiv 2103.00065, appendix B); Adam (2 + 2β₁)/((1 -
    β₁)η), which is 38/η at β₁ = 0.9 (Cohen et al. 2022, arXiv 2207.14484, §3).

    >>> stable_curvature("sgd", 0.5), stable_curvature("sgd", 0.5, momentum=0.5)
    (4.0, 6.0)
    >>> round(stable_curvature("adam", 1.0), 9)
    38.0
    """
    if optimizer == "sgd":
        return (2 + 2 * momentum) / ((1 + 2 * momentum if nesterov else 1) * lr)
    if optimizer in ("adam", "adamw"):
        return (2 + 2 * beta1) / ((1 - beta1) * lr)
    raise ConfigError(
        f"optimizer {optimizer!r} has no known stability line; sgd, adam and adamw have."
    )
