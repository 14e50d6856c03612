"""How often a request is made before its failure counts, so that a store which stays silent is
given up in time.
"""

#: pyarrow's waits before it makes a request again are drawn from 1, 2, 4 … seconds at most, and
#: never longer than this.
_LONGEST_WAIT = 20.0


def count_attempts(request_seconds: float, end_seconds: float, most: int) -> int:
    """Attempts of `request_seconds` each that fit into `end_seconds` with pyarrow's waits between
    them: 2 at least, `most` at most.

    >>> [count_attempts(seconds, 10 * seconds, 10) for seconds in (0.1, 2.0, 30.0, 600.0)]
    [2, 4, 7, 9]
    """
    used, attempts = request_seconds, 1
    while attempts < most:
        used += min(2.0 ** (attempts - 1), _LONGEST_WAIT) + request_seconds
        if used > end_seconds:
            break
        attempts += 1
    return max(2, attempts)
