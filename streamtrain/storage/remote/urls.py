"""Paths and URLs as text: which is which, in one form, and what leads from one to another.

Nothing is opened.
"""

import os
import re

from streamtrain.base.redact import redact_url
from streamtrain.errors import ConfigError, shown

_WEB = ("http", "https")


def is_remote(url: str) -> bool:
    """Whether a path is a URL; all else is a local file or folder."""
    return "://" in url


def is_web(url: str) -> bool:
    """Whether it is http(s), where nothing can be listed or written."""
    return url.partition("://")[0].lower() in _WEB


def normal_url(path: str | os.PathLike[str]) -> str:
    """A local path made absolute; a URL with its scheme in small letters and without a slash at its
    end. Raises ConfigError for no URL.
    """
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    url = f"{scheme.lower()}://{rest.strip('/')}"
    split(url)
    return url


def relative_url(url: str, root: str) -> str:
    """What leads from a folder to a file below it, both as `normal_url` gives them.

    >>> relative_url("s3://b/a/c.parquet", "s3://b/a"), relative_url("/a/c.parquet", "/a")
    ('c.parquet', 'c.parquet')
    """
    return (
        url.removeprefix(root.rstrip("/") + "/") if is_remote(url) else os.path.relpath(url, root)
    )


def split(url: str) -> tuple[str, str]:
    """Scheme and path of a URL. Raises ConfigError when there is no bucket."""
    scheme, _, path = url.partition("://")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not path:
        raise ConfigError(f"{shown(redact_url(url))}: a URL is scheme://bucket/folder.")
    return scheme, path
