"""Classify, normalise and split paths and URLs as text; nothing is opened."""

import os
import re
from urllib.parse import unquote

from streamtrain.base.redact import redact_url
from streamtrain.base.utf8_names import refuse_other_encodings
from streamtrain.errors import ConfigError, shown

_WEB = ("http", "https")
_FILE = "file://"


def is_remote(url: str) -> bool:
    """Return whether a path is a URL; any other path is a local file or folder."""
    return "://" in url


def is_web(url: str) -> bool:
    """Return whether a URL is http(s), where nothing can be listed or written."""
    return url.partition("://")[0].lower() in _WEB


def normal_url(path: str | os.PathLike[str]) -> str:
    """Return a local path as absolute, a URL with a lower-case scheme and no trailing slash.

    A `file://` URL is a local path. Raises ConfigError for an invalid URL, and for a path that is
    not UTF-8.
    """
    path = os.fspath(path)
    if path[: len(_FILE)].lower() == _FILE:
        path = _local_path(path)
    if not is_remote(path):
        path = absolute_path(path)
        refuse_other_encodings(path)
        return path
    scheme, _, rest = path.partition("://")
    url = f"{scheme.lower()}://{rest.strip('/')}"
    split(url)
    return url


def absolute_path(path: str) -> str:
    """Return a local path as absolute, without `..`, for the file that the system opens.

    `..` after a symbolic link is the folder above the link's target, not the one with the link.
    """
    parts = path.split("/")
    if ".." in parts:
        names = len(parts) - parts[::-1].index("..")
        above = "/".join(parts[:names])
        folder = os.path.realpath(above)
        if folder != os.path.realpath(os.path.abspath(above)):
            return os.path.normpath("/".join([folder, *parts[names:]]))
    return os.path.abspath(path)


def _local_path(url: str) -> str:
    """Return the path that a `file://` URL means, whose `%20` is a space (RFC 8089).

    >>> _local_path("file:///a%20b/c.csv"), _local_path("file://localhost/a")
    ('/a b/c.csv', '/a')
    """
    host, slash, path = url[len(_FILE) :].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise ConfigError(
            f"{shown(url)}: not the URL of a local file, which starts with file:///. Give its path."
        )
    return unquote(f"/{path}", errors="surrogateescape")


def relative_url(url: str, root: str) -> str:
    """Return the relative path from a folder to a file below it, both as `normal_url` returns them.

    >>> relative_url("s3://b/a/c.parquet", "s3://b/a"), relative_url("/a/c.parquet", "/a")
    ('c.parquet', 'c.parquet')
    """
    if is_remote(url):
        return url.removeprefix(root.rstrip("/") + "/")
    return os.path.relpath(url, root)


def split(url: str) -> tuple[str, str]:
    """Return scheme and path of a URL. Raises ConfigError when there is no bucket."""
    scheme, _, path = url.partition("://")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not path:
        raise ConfigError(
            f"{shown(redact_url(url))}: not a URL of the form scheme://bucket/folder."
        )
    return scheme, path


def refuse_read_only(url: str) -> None:
    """Raise ConfigError where nothing can be written."""
    if is_web(url):
        raise ConfigError(
            f"{redact_url(url)}: http(s) is read only. Write to a folder or an object store."
        )
