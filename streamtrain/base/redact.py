"""Hide secrets in storage options, URLs and commands before they are written or shown."""

import re
from collections.abc import Iterable, Mapping

#: The text that replaces a secret in files and messages.
HIDDEN = "***"

#: The storage options whose values may be shown.
SHOWN_OPTIONS = ("endpoint_url", "region", "anon")

#: `key=value` of a storage option, set by `--set` or by its own flag, in one word or two.
_BY_KEY = re.compile(r"((?:--set=)?data\.storage_options\.(\w+)=)(.*)", re.DOTALL)
_BY_FLAG = re.compile(r"((?:--storage-option=)?(\w+)=)(.*)", re.DOTALL)


def redact_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return storage options with secret values hidden.

    >>> redact_options({"region": "eu-west-1", "secret": "abc"})
    {'region': 'eu-west-1', 'secret': '***'}
    """
    return {
        name: redact_url(value) if name in SHOWN_OPTIONS else HIDDEN
        for name, value in options.items()
    }


def redact_url(url: str) -> str:
    """Return a URL without its user, password and signature; a local path is unchanged.

    The signature is what follows `?` in an http(s) URL.

    >>> urls = "https://me:pw@host/a.parquet?sig=abc", "s3://b/day-?.parquet", "a@b/c?d"
    >>> tuple(map(redact_url, urls))
    ('https://***@host/a.parquet?***', 's3://b/day-?.parquet', 'a@b/c?d')
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    authority, slash, path = rest.partition("/")
    user, at_sign, host = authority.rpartition("@")
    if scheme.lower() in ("http", "https"):
        before, query_mark, _ = (path if slash else host).partition("?")
        if slash:
            path = before
        else:
            host = before
        if query_mark:
            path += f"?{HIDDEN}"
    hidden_user = HIDDEN + at_sign if user else ""
    return f"{scheme}://{hidden_user}{host}{slash}{path}"


def redact_command(words: Iterable[str]) -> list[str]:
    """Return the words of a command with secrets hidden, to be stored with a run.

    >>> option = ["--storage-option", "secret=a"]
    >>> redact_command(["sweep", *option, "--set", "data.storage_options.token=b"])
    ['sweep', '--storage-option', 'secret=***', '--set', 'data.storage_options.token=***']
    """
    redacted: list[str] = []
    previous = ""
    for word in words:
        by_flag = previous == "--storage-option" or word.startswith("--storage-option=")
        match = (_BY_FLAG if by_flag else _BY_KEY).fullmatch(word)
        if match:
            prefix, name, value = match.groups()
            redacted.append(prefix + redact_options({name: value})[name])
        else:
            redacted.append(redact_url(word))
        previous = word
    return redacted
