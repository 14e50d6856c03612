"""Plain Python that the kernels must equal."""

from streamtrain.plan.order import GOLDEN, mix64


def fisher_yates(rows: list, key: int) -> list:
    """Permute `rows` in place with Lemire's bounded integers; return them."""
    state = key
    for i in range(len(rows) - 1, 0, -1):
        while True:
            state = (state + GOLDEN) % 2**64
            product = (mix64(state) >> 32) * (i + 1)
            if product % 2**32 >= 2**32 % (i + 1):
                break
        j = product >> 32
        rows[i], rows[j] = rows[j], rows[i]
    return rows
