"""Hide secrets before anything is written or shown: by their values, and in every URL.

Secrets are the values of storage options, the queries of signed links, and passwords in URLs. They
are found in the parsed config, so that no spelling of a flag, a key or a variable matters.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus

#: The text that replaces a secret in files and messages.
HIDDEN = "***"

#: The storage options whose values may be shown.
SHOWN_OPTIONS = ("endpoint_url", "region", "anon")

#: Characters of the shortest secret that is hidden in texts. Shorter ones protect nothing, and
#: hiding them would garble ordinary words.
_SHORTEST_SECRET = 4

#: Shorter secrets are hidden only as whole words. A value in a query is a secret if it is at least
#: this long, or if its name says so.
_LONG_SECRET = 16
_SECRET_NAME = re.compile(
    r"(?:sig|signature|secret|token|key|password|pwd|credential|auth\w*|sas\w*)$", re.IGNORECASE
)

_URL = re.compile(r"[a-zA-Z][\w+.-]*://[^\s'\"<>`]+")
#: A query in a URL that may also have the `?` of a glob.
_QUERY = re.compile(r"\?[\w.~%+-]+=", re.ASCII)

#: A storage option in a word of a command, and a name of an environment variable of one.
_OPTION_WORD = re.compile(
    r"(?:.*storage[-_]options?\.|-*storage[-_]options?=)(\w+)=(.*)", re.DOTALL | re.IGNORECASE
)
_OPTION_FLAG = re.compile(r"-+storage[-_]options?", re.IGNORECASE)
_OPTION_VARIABLE = re.compile(r"STREAMTRAIN_DATA__STORAGE_OPTIONS__(\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Texts to hide."""

    texts: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Secrets({len(self.texts)})"

    def __or__(self, other: "Secrets") -> "Secrets":
        return Secrets(self.texts | other.texts)

    @staticmethod
    def of(options: Mapping[str, str], urls: Iterable[str | None] = ()) -> "Secrets":
        """Return the secrets of storage options and of URLs, in each way that they are encoded."""
        found = {str(value) for name, value in options.items() if name not in SHOWN_OPTIONS}
        for url in (*urls, *(str(value) for value in options.values())):
            found.update(_secrets_of_url(url or ""))
        encodings = (quote, quote_plus, unquote, unquote_plus, lambda text: quote(text, safe=""))
        return Secrets(frozenset({*found, *(code(text) for text in found for code in encodings)}))

    @staticmethod
    def of_command(words: Iterable[str], environment: Mapping[str, str]) -> "Secrets":
        """Return the likely secrets of a command that is not parsed yet, or cannot be."""
        options: list[tuple[str, str]] = []
        urls: list[str] = []
        previous = ""
        for word in words:
            name, _, value = word.lstrip("-").partition("=")
            if match := _OPTION_WORD.fullmatch(word):
                options.append((match[1], match[2]))
            elif _OPTION_FLAG.fullmatch(previous) or _SECRET_NAME.search(name):
                options.append((name, value))
            urls += _URL.findall(word)
            previous = word
        for name, value in environment.items():
            if match := _OPTION_VARIABLE.fullmatch(name):
                options.append((match[1].lower(), value))
        found = [Secrets.of({name: value}) for name, value in options]  # a name may come twice
        return Secrets(Secrets.of({}, urls).texts.union(*(secrets.texts for secrets in found)))

    def hide(self, text: str) -> str:
        """Return a text, which may come from a library, without secrets.

        >>> Secrets.of({"secret": "a/b=c"}).hide("PUT ?s=a%2Fb%3Dc: a/b=c, https://h/x?sig=1")
        'PUT ?s=***: ***, https://h/x?***'
        """
        if "://" in text:
            text = _URL.sub(lambda match: redact_url(match[0]), text)
        for secret in sorted(self.texts, key=len, reverse=True):
            if len(secret) < _SHORTEST_SECRET or secret not in text:
                continue
            if len(secret) < _LONG_SECRET:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
            else:
                text = text.replace(secret, HIDDEN)
        return text

    def hide_words(self, words: Iterable[str]) -> list[str]:
        """Return the words of a command without secrets, short ones included.

        >>> Secrets.of({"secret": "a"}).hide_words(["--set", "data.storage_options.secret=a"])
        ['--set', 'data.storage_options.secret=***']
        """
        return [self._hide_word(word) for word in words]

    def _hide_word(self, word: str) -> str:
        name, equals, value = word.rpartition("=")
        if equals and value in self.texts and len(value) < _SHORTEST_SECRET:
            return f"{name}={HIDDEN}"
        return self.hide(word)


NO_SECRETS = Secrets()


@contextmanager
def hiding_in_errors(secrets: Secrets) -> Iterator[None]:
    """Hide secrets in the message of an exception and of its causes."""
    try:
        yield
    except Exception as error:
        failure: BaseException | None = error
        for _ in range(100):
            if failure is None:
                break
            failure.args = tuple(
                secrets.hide(item) if isinstance(item, str) else item for item in failure.args
            )
            if isinstance(failure, OSError):  # it is shown by its attributes, not by `args`
                for name in ("strerror", "filename", "filename2"):
                    if isinstance(text := getattr(failure, name), str):
                        setattr(failure, name, secrets.hide(text))
            failure = failure.__cause__ or failure.__context__
        raise


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
    """Return a URL without its user, password and query; a local path is unchanged.

    Outside of http(s) URLs, a `?` may belong to a glob.

    >>> urls = "https://me:pw@host/a.parquet?sig=abc", "s3://b/day-?.parquet", "a@b/c?d"
    >>> tuple(map(redact_url, urls))
    ('https://***@host/a.parquet?***', 's3://b/day-?.parquet', 'a@b/c?d')
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    place, query = _split_query(scheme, rest)
    authority, slash, path = place.partition("/")
    user, at_sign, host = authority.rpartition("@")
    hidden_user = HIDDEN + at_sign if user else ""
    return f"{scheme}://{hidden_user}{host}{slash}{path}" + (f"?{HIDDEN}" if query else "")


def _split_query(scheme: str, rest: str) -> tuple[str, str]:
    """Return what is before the `?` of the query of a URL, and the query."""
    if scheme.lower() in ("http", "https"):
        place, _, query = rest.partition("?")
        return place, query
    match = _QUERY.search(rest)
    return (rest[: match.start()], rest[match.start() + 1 :]) if match else (rest, "")


def _secrets_of_url(url: str) -> Iterator[str]:
    scheme, colon, rest = url.partition("://")
    if not colon:
        return
    place, query = _split_query(scheme, rest)
    user, _, _ = place.partition("/")[0].rpartition("@")
    yield from filter(None, (user, user.partition(":")[2], query))
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if len(value) >= _LONG_SECRET or (_SECRET_NAME.search(name) and value):
            yield value
