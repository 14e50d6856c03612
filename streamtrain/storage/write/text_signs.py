"""Numbers with a currency sign or a per cent sign, such as $1.50, or with a minus of Unicode."""

import re
from collections import Counter
from collections.abc import Iterable

_SIGNED = re.compile(r"([+-]?)([$€£¥])\s?([+-]?[\d.,].*)|([+-]?[\d.,].*?)\s?([$€£¥%])")

#: U+2212 in UTF-8, before a number at the start of a field.
_MINUS = b"\xe2\x88\x92"
_LEADING_MINUS = re.compile(rb"(?m)((?:^|[,;|\t\" ]) *)" + _MINUS + rb"(?=[$]?[.,]?\d)")


def with_plain_minus(content: bytes) -> bytes:
    """Return UTF-8 text in which numbers have the minus of ASCII instead of U+2212.

    >>> with_plain_minus("a,\u22121.5".encode())
    b'a,-1.5'
    """
    return _LEADING_MINUS.sub(rb"\1-", content) if _MINUS in content else content


def without_sign(field: str) -> tuple[str, str]:
    """Return a field without its sign, and the sign; empty where it has none.

    >>> without_sign("-$1,234.50"), without_sign("45 %"), without_sign("kg")
    (('-1,234.50', '$'), ('45', '%'), ('kg', ''))
    """
    match = _SIGNED.fullmatch(field)
    if match is None:
        return field, ""
    sign, before, after, number, last = match.groups()
    return (number, last) if before is None else (sign + after, before)


def sign_of(fields: Iterable[str]) -> str:
    """Return the sign of a column: that of at least half of its fields; empty where none is."""
    signs = Counter(without_sign(field.strip())[1] for field in fields)
    sign, count = signs.most_common(1)[0] if signs else ("", 0)
    return sign if 2 * count >= signs.total() else ""


def sign_patterns(sign: str) -> tuple[str, str]:
    """Return the patterns (RE2) of a text that has the sign, and of what to replace by group 1."""
    mark = re.escape(sign)
    return rf"^[+-]?{mark}|{mark}$", rf"^([+-]?){mark}\s?|\s?{mark}$"
