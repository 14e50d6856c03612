"""Where the scheduler is, by flag, file or environment, and a client of it: with an end to the wait
for what is no scheduler.
"""

import asyncio
import json
import os
import time
from typing import Any

from streamtrain.config import ClusterConfig
from streamtrain.errors import ConfigError

#: A file that a scheduler has begun to write is read again after so many seconds, so many times.
_READ_AGAIN, _READS = 0.05, 10


def find_address(config: ClusterConfig) -> str:
    """The address that the config names, or else `DASK_SCHEDULER_ADDRESS`.

    Raises ConfigError for a file that has none.
    """
    if config.scheduler_file is not None:
        return _read_address(config.scheduler_file)
    return config.scheduler or os.environ["DASK_SCHEDULER_ADDRESS"]


def open_client(address: str, security: Any, seconds: float) -> Any:
    """A connected client.

    Raises OSError when no scheduler answers in time, and what Dask raises for an address that it
    cannot use.
    """
    import distributed  # of the extra [cluster]; the caller says so where it is missing

    class Client(distributed.Client):
        """Dask's time-out ends with the connection: by a port that lets everybody in and says
        nothing it would wait for ever.
        """

        async def _start(self, **kwargs: Any) -> Any:
            try:
                return await asyncio.wait_for(super()._start(**kwargs), 1.5 * seconds)
            except TimeoutError:
                await self._close(fast=True)
                raise OSError(
                    f"something listens there that did not greet within {1.5 * seconds:.0f} s, as a"
                    " scheduler does"
                ) from None

    return Client(address, timeout=seconds, security=security)


def _read_address(path: str) -> str:
    if not os.path.isfile(path):
        raise ConfigError(
            f"--scheduler-file {path} does not exist. Start the scheduler with the same"
            " --scheduler-file."
        )
    for _ in range(_READS):
        try:
            with open(path, encoding="utf-8") as file:
                address = json.load(file)["address"]
            if isinstance(address, str):
                return address
        except OSError as error:
            raise ConfigError(
                f"--scheduler-file {path} cannot be read: {error.strerror}. Let its owner give you"
                " the right to."
            ) from None
        except (ValueError, KeyError, TypeError):
            pass
        time.sleep(_READ_AGAIN)
    raise ConfigError(
        f"--scheduler-file {path} holds no scheduler's address. Name the file that `dask scheduler"
        " --scheduler-file` wrote."
    )
