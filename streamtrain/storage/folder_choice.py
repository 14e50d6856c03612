"""Choose the files of a folder that are one data set, and say in one line which are not."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from streamtrain.base.caller import warn_caller
from streamtrain.base.words import plural
from streamtrain.errors import DataError, shown
from streamtrain.storage.remote.urls import is_remote, relative_url

PARQUET_SUFFIX = ".parquet"
_OTHER_SUFFIXES = (".parq", ".pq")
#: Word in the name of a file or folder → the split that it belongs to, as the Hugging Face Hub
#: reads names.
_SPLITS: Mapping[str, str] = {
    word: split
    for split, words in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for word in words
}
#: Names that a message shows; the others are counted.
_SHOWN_NAMES = 3


def may_be_parquet(url: str) -> bool:
    """Return whether a file without the suffix `.parquet` is Parquet, as far as is cheap to know.

    A local file without a suffix is opened. A remote one is judged by its name: engines number
    their files.
    """
    name = url.rpartition("/")[2]
    if name.lower().endswith(_OTHER_SUFFIXES):
        return True
    if "." in name:
        return False
    if is_remote(url):
        return any(map(str.isdigit, name))
    try:
        if not os.path.isfile(url):
            return False
        with open(url, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def add_other_parquet(path: str, files: list[str], others: Sequence[str]) -> list[str]:
    """Return the files; the Parquet files of other names where there are no files.

    `others`: files that may be Parquet under other names. Warns where they are passed over.
    """
    if not files or not others:
        return files or list(others)
    names = [shown(relative_url(other, path)) for other in sorted(others)]
    suffix = os.path.splitext(files[0])[1]
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    warn_caller(
        f"{shown(path)}: took {plural(len(files), f'*{suffix} file')} and passed over"
        f" {', '.join(names[:_SHOWN_NAMES])}{more}, which may be Parquet, too. Name other files"
        " with a glob."
    )
    return files


def choose_split(path: str, urls: list[str]) -> list[str]:
    """Return the files of the split `train` where a folder has several splits, else all files.

    Splits are never merged: rows of `test` and `validation` are there to judge a model that has not
    seen them. `train` is what whoever names the folder wants to train on.

    Warns of what is left out. Raises DataError where there are several splits and no `train`.
    """
    root = path.rstrip("/") + "/"
    splits = {url: split_of(url.removeprefix(root)) for url in urls}
    counts = Counter(splits.values())
    named = sorted(split for split in counts if split)
    if len(named) < 2:
        return urls
    if "train" not in named:
        raise DataError(
            f"{shown(path)}: has the splits {' and '.join(named)}, which are not merged, and no"
            " train. Choose one with a glob."
        )
    left_out = [f"{counts[split]:,} of {split}" for split in named if split != "train"]
    if counts[None]:
        left_out.append(f"{counts[None]:,} of no split")
    warn_caller(
        f"{shown(path)}: took {plural(counts['train'], 'file')} of the split train and left out"
        f" {', '.join(left_out)}. Name a split with a glob; --eval-data evaluates on one."
    )
    return [url for url in urls if splits[url] == "train"]


def split_of(name: str) -> str | None:
    """Return the split that a file's relative name begins or ends with, or that a folder names.

    >>> split_of("data/train-00000-of-00001.parquet"), split_of("en/validation/0.parquet")
    ('train', 'validation')
    >>> split_of("sales_test.parquet"), split_of("latest.parquet"), split_of("trains.parquet")
    ('test', None, None)
    """
    *folders, file = name.lower().split("/")
    for folder in folders:
        if folder in _SPLITS:
            return _SPLITS[folder]
    words = re.findall("[a-z]+", file.partition(".")[0])
    found = {_SPLITS[word] for word in (words[:1] + words[-1:]) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None
