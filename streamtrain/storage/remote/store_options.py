"""The options of object stores: one set of names for pyarrow.fs, obstore and fsspec.

Signed links keep their query, which is a secret, apart from the URL that is shown.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from streamtrain.base.redact import HIDDEN, redact_url
from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, shown
from streamtrain.storage.remote.urls import is_remote, is_web, normal_url
from streamtrain.types import Storage

#: A read must end within `fetch.timeout_seconds`; a request that is silent for one tenth of that is
#: repeated.
REQUESTS_PER_READ = 10

#: Scheme → option in fsspec's naming → its names in pyarrow.fs and obstore. A scheme that is not
#: listed takes all options, with fsspec's names.
OPTION_NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "s3": {
        "key": ("access_key", "access_key_id"),
        "secret": ("secret_key", "secret_access_key"),
        "token": ("session_token", "session_token"),
        "endpoint_url": ("endpoint_override", "endpoint"),
        "region": ("region", "region"),
        "anon": ("anonymous", "skip_signature"),
    },
    "gs": {
        "token": ("access_token", "bearer_token"),
        "endpoint_url": ("endpoint_override", "base_url"),
        "anon": ("anonymous", "skip_signature"),
    },
    "az": {
        "key": ("account_name", "account_name"),
        "secret": ("account_key", "account_key"),
        "token": ("sas_token", "sas_key"),
        "endpoint_url": ("blob_storage_authority", "endpoint"),
    },
    "http": {},
    "https": {},
}
ARROW, OBSTORE = 0, 1


def make_storage(options: Mapping[str, str] | None, *, timeout_seconds: float = 300.0) -> Storage:
    """Return the validated options of an object store.

    `timeout_seconds`: `fetch.timeout_seconds`; a request may be silent for one tenth of it.

    Raises ConfigError for an unknown name, and for a secret that was redacted.
    """
    option_names = sorted({name for names in OPTION_NAMES.values() for name in names})
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (options or {}).items()
    }
    for name, value in texts.items():
        if name not in option_names:
            raise ConfigError(
                f"storage option {shown(name)!r} is unknown; known are"
                f" {', '.join(option_names)}.{did_you_mean(name, option_names)}"
            )
        if value == HIDDEN:
            raise ConfigError(
                f"storage option {name}: the config of a run does not contain secrets. Give it"
                f" again: --storage-option {name}=…"
            )
    return Storage(
        options=tuple(sorted(texts.items())), request_seconds=timeout_seconds / REQUESTS_PER_READ
    )


def take_query(url: str, storage: Storage) -> tuple[str, Storage]:
    """Return a link without its query, and a storage that knows the query.

    The query of a signed link is a secret. Other URLs are returned unchanged.

    Raises ConfigError for a URL with a user name or a password.
    """
    if not is_remote(url):
        return url, storage
    _scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"{redact_url(url)}: credentials in a URL are not supported. Give them with"
            " --storage-option, or use a signed link."
        )
    if not is_web(url):
        return url, storage
    clean, _, query = url.partition("?")
    if not query:
        return clean, storage
    queries = (*storage.queries, (normal_url(clean), query))
    return clean, replace(storage, queries=queries)


def client_options(scheme: str, storage: Storage, library: int) -> dict[str, Any]:
    """Return the options under the names of a library, `ARROW` or `OBSTORE`.

    Raises ConfigError for an option that does not apply to the scheme.
    """
    names = OPTION_NAMES[scheme]
    options: dict[str, Any] = {}
    for name, value in storage.options:
        if name not in names:
            advice = f"it takes {', '.join(names)}" if names else "it takes none; use a signed link"
            raise ConfigError(f"storage option {name} does not apply to {scheme}://; {advice}.")
        is_flag = name == "anon"
        options[names[name][library]] = value in ("true", "1", "yes", "on") if is_flag else value
    if scheme == "s3" and "endpoint_url" not in dict(storage.options):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options[names["endpoint_url"][library]] = endpoint
    return options
