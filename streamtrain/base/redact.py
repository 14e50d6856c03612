"""Secrets stay out of what is written or shown: of storage options, URLs and commands only what is
no secret is kept.
"""

import re
from collections.abc import Iterable, Mapping

#: What stands for a secret, in files and messages.
HIDDEN = "***"

#: The storage options whose values may be shown.
SHOWN_OPTIONS = ("endpoint_url", "region", "anon")

#: `key=value` of an option, by `--set` or by its own flag, in one word or in two.
_BY_KEY = re.compile(r"((?:--set=)?data\.storage_options\.(\w+)=)(.*)", re.DOTALL)
_BY_FLAG = re.compile(r"((?:--storage-option=)?(\w+)=)(.*)", re.DOTALL)


def redact_options(options: Mapping[str, str]) -> dict[str, str]:
    """Storage options as they may be written.

    >>> redact_options({"region": "eu-west-1", "secret": "abc"})
    {'region': 'eu-west-1', 'secret': '***'}
    """
    return {
        name: redact_url(value) if name in SHOWN_OPTIONS else HIDDEN
        for name, value in options.items()
    }


def redact_url(url: str) -> str:
    """A URL without its user, password, and what a signed link has behind `?`; a path stays as it
    is.

    >>> urls = "https://me:pw@host/a.parquet?sig=abc", "s3://b/day-?.parquet", "a@b/c?d"
    >>> tuple(map(redact_url, urls))
    ('https://***@host/a.parquet?***', 's3://b/day-?.parquet', 'a@b/c?d')
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    if scheme.lower() in ("http", "https"):
        host, mark, _ = host.partition("?") if not slash else (host, "", "")
        path, asks, _ = path.partition("?")
        path += f"?{HIDDEN}" if asks or mark else ""
    return f"{scheme}://{HIDDEN + at if user else ''}{host}{slash}{path}"


def redact_command(words: Iterable[str]) -> list[str]:
    """The words of a command, as they may be kept with a run.

    >>> option = ["--storage-option", "secret=a"]
    >>> redact_command(["sweep", *option, "--set", "data.storage_options.token=b"])
    ['sweep', '--storage-option', 'secret=***', '--set', 'data.storage_options.token=***']
    """
    found, before = [], ""
    for word in words:
        by_flag = before == "--storage-option" or word.startswith("--storage-option=")
        match = (_BY_FLAG if by_flag else _BY_KEY).fullmatch(word)
        found.append(
            match[1] + redact_options({match[2]: match[3]})[match[2]] if match else redact_url(word)
        )
        before = word
    return found
