"""Every error that streamtrain raises on purpose.

```
StreamTrainError                 exit 1   a run failed
├── ConfigError (ValueError)     exit 2   a flag, a key, a combination
├── DataError (ValueError)       exit 3   a file, a column, a value
│   └── StoreError               exit 4   an object store that does not answer, or refuses
├── ResourceError (MemoryError)  exit 4   memory, disk, device, cluster
└── CheckFailed                  exit 5   a check the user asked for did not hold
```

A message says what was found, the limit, and the next move. It is shown as one line, without a
traceback.
"""


class StreamTrainError(Exception):
    """A run failed for a reason that a person can act on."""

    exit_code = 1


class ConfigError(StreamTrainError, ValueError):
    """A flag, a config key, or a combination of them, cannot be used."""

    exit_code = 2


class DataError(StreamTrainError, ValueError):
    """A file, a column or a value is refused; the message names each of them."""

    exit_code = 3


class StoreError(DataError):
    """An object store failed for as long as it was asked; never quarantined: it says nothing of the
    data.
    """

    exit_code = 4


class ResourceError(StreamTrainError, MemoryError):
    """Memory, disk, device or cluster does not suffice; the message gives both numbers."""

    exit_code = 4


class CheckFailed(StreamTrainError):
    """A check that the user asked for did not hold."""

    exit_code = 5


def shown(name: str) -> str:
    r"""A name from a file as one printable line: it can neither end a message's line nor drive a
    terminal.

    >>> shown("a\nerror: b\x1b[2J"), shown("größe")
    ('a\\nerror: b\\x1b[2J', 'größe')
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )


def first_line(error: BaseException) -> str:
    """What a library said, on one printable line: it may quote the file."""
    lines = str(error).strip().splitlines()
    return shown(lines[0].rstrip(".")) if lines else type(error).__name__
