"""The errors that streamtrain raises for causes outside its code.

```
StreamTrainError                 exit 1   a run failed
├── ConfigError (ValueError)     exit 2   a flag, a key, a combination
│   └── RunInUse                 exit 2   the folder of a run that another process has open
├── DataError (ValueError)       exit 3   a file, a column, a value
│   └── StoreError               exit 4   an object store that does not answer, or refuses
├── ResourceError (MemoryError)  exit 4   memory, disk, device, cluster
└── CheckFailed                  exit 5   a check that the user asked for did not hold
```

A message states the cause, the limit, and what to do next. The command line shows it as one line,
without a traceback.
"""


class StreamTrainError(Exception):
    """A run failed for a reason that the user can act on."""

    exit_code = 1


class ConfigError(StreamTrainError, ValueError):
    """A flag or a config key is invalid, or a combination of them is."""

    exit_code = 2


class RunInUse(ConfigError):
    """Another process has the folder of the run open."""


class DataError(StreamTrainError, ValueError):
    """A file, a column or a value is refused; the message names it."""

    exit_code = 3


class StoreError(DataError):
    """An object store failed on every attempt.

    It never leads to quarantine, since it says nothing about the data.
    """

    exit_code = 4


class ResourceError(MemoryError, StreamTrainError):
    """Memory, disk, device or cluster do not suffice; the message states needed and available."""

    # MemoryError comes first, or tblib, through which Dask sends errors, could not construct one.

    exit_code = 4


class CheckFailed(StreamTrainError):
    """A check that the user asked for did not hold."""

    exit_code = 5


def shown(name: str) -> str:
    r"""Return a name from a file as one printable line, with control characters escaped.

    So a name can neither break a message into lines nor send commands to a terminal.

    >>> shown("a\nerror: b\x1b[2J"), shown("größe")
    ('a\\nerror: b\\x1b[2J', 'größe')
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, printable, since it may quote the file."""
    lines = str(error).strip().splitlines()
    return shown(lines[0].rstrip(".")) if lines else type(error).__name__
