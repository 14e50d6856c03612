"""Which files a path means: a file, a folder, a glob, or a list of files → the shards' URLs,
sorted; also in object stores.
"""

import glob
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from streamtrain.errors import DataError, shown
from streamtrain.storage.remote.filesystem import file_size, list_files, take_query
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.zarr.zarr_node import NODE_FILES, is_zarr
from streamtrain.types import LOCAL, Shard, Storage

#: A text file that names the shards, one a line.
LIST_SUFFIX = ".txt"
_MOST_LIST_BYTES = 1 << 26
#: Every ext4 disk has this folder at its root, for its owner's eyes only.
_RESCUED = "lost+found"


def locate(
    path: str, suffixes: Sequence[str] = (".parquet",), storage: Storage = LOCAL
) -> list[str]:
    """The files with one of `suffixes` and the Zarr nodes that `path` means, those of folders below
    too; each once.

    A file that is named, or matched by a glob, is taken whatever its suffix. Hidden files and
    folders, and those that begin with `_`, are left out. Raises DataError when there is nothing,
    and for a name with control characters, a pipe or a device; StoreError when a store does not
    answer.
    """
    found = _locate_remote(path, suffixes, storage) if is_remote(path) else _locate(path, suffixes)
    for url in found:
        if not url.isprintable():
            raise DataError(f"{shown(url)}: the name holds control characters. Rename it.")
        if not is_remote(url) and not (os.path.isfile(url) or os.path.isdir(url)):
            raise DataError(f"{url}: not a regular file. Name a Parquet file or a Zarr array.")
    return found


def warn_of_links(path: str, shards: Sequence[Shard]) -> None:
    """Warn of files that lie here under two names: each row of them is used twice."""
    seen: dict[tuple[int, int], str] = {}
    for shard in shards:
        with suppress(OSError):
            about = os.stat(shard.url)
            first = (
                seen.setdefault((about.st_dev, about.st_ino), shard.url)
                if about.st_ino
                else shard.url
            )
            if first != shard.url:
                warnings.warn(
                    f"{path}: {shard.url} is {first} under another name, by a link: each row of it"
                    " is used twice. Remove one of the names if that is not meant.",
                    stacklevel=4,
                )


def read_list(path: str, storage: Storage = LOCAL) -> tuple[list[str], Storage] | None:
    """The URLs that a local `.txt` file names, in its order, and the storage that knows their
    signatures; None for any other path.

    Empty lines and those that begin with # are left out; a path is relative to the list's folder.
    Raises DataError.
    """
    if is_remote(path) or not path.lower().endswith(LIST_SUFFIX) or not os.path.isfile(path):
        return None
    if os.path.getsize(path) > _MOST_LIST_BYTES:
        raise DataError(
            f"{path}: a list of files has at most {_MOST_LIST_BYTES:,} bytes. Cut it in two."
        )
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of files: {error}. Write one URL a line."
        ) from None
    urls = []
    for line in lines:
        if line and not line.startswith("#"):
            url, storage = take_query(line, storage)
            urls.append(
                normal_url(url if is_remote(url) else os.path.join(os.path.dirname(path), url))
            )
    twice = (
        sorted({url for url in urls if urls.count(url) > 1}) if len(set(urls)) < len(urls) else []
    )
    if not urls or twice:
        raise DataError(
            f"{path}: "
            + (
                f"names {shown(twice[0])} twice. Name every file once."
                if twice
                else "names no file. Write one URL a line."
            )
        )
    return urls, storage


def _locate(path: str, suffixes: Sequence[str]) -> list[str]:
    if not os.path.exists(path):
        # Of `absent/**` glob says that it matches `absent/`.
        found = (
            sorted(filter(os.path.lexists, glob.glob(path, recursive=True)))
            if glob.has_magic(path)
            else []
        )
        if not found:
            raise _nothing(path)
        whole = _outside(
            found, {match for match in found if os.path.isdir(match) and is_zarr(match)}
        )
        # `data/**` matches a folder, the folders in it, and their files: each file is taken once.
        urls = [
            url
            for match in whole
            for url in (_locate(match, suffixes) if os.path.isdir(match) else [match])
        ]
        return list(dict.fromkeys(map(normal_url, urls)))
    if os.path.isfile(path) or is_zarr(path):
        return [path]
    if not os.path.isdir(path):
        return [path]
    return _one_kind(path, *_walk(path, suffixes), suffixes)


def _walk(root: str, suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files with one of `suffixes` and the arrays below a folder.

    Raises DataError for a folder that cannot be listed.

    Links to folders are followed, after all else; each folder is entered once, however many names
    it has. A link to what is not there is kept, so that it is refused and not passed over.
    """
    files, arrays, links = [], [], [root]
    entered: set[tuple[int, int]] = set()
    while links:
        top = links.pop(0)
        if top != root and os.path.join(os.path.realpath(root), "").startswith(
            os.path.join(os.path.realpath(top), "")
        ):
            continue  # a link upwards: what lies beside the folder is not in it
        for folder, folders, names in os.walk(top, onerror=_refuse_folder):
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in entered:
                folders.clear()
                continue
            entered.add((about.st_dev, about.st_ino))
            below = sorted(
                os.path.join(folder, name)
                for name in folders
                if not name.startswith((".", "_")) and name != _RESCUED
            )
            taken = [path for path in below if path.endswith(".zarr")]
            linked = [path for path in below if os.path.islink(path) and path not in taken]
            files += [
                os.path.join(folder, name)
                for name in names
                if name.lower().endswith(
                    (*suffixes, ".zarr")
                    if os.path.islink(os.path.join(folder, name))
                    else tuple(suffixes)
                )
                and not name.startswith((".", "_"))
            ]
            arrays += taken
            links += linked
            folders[:] = [
                os.path.basename(path) for path in below if path not in taken and path not in linked
            ]
    return files, arrays


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"{shown(str(error.filename))}: cannot be listed: {error.strerror or error}. Check its"
        " permissions, or move it away."
    ) from error


def _locate_remote(url: str, suffixes: Sequence[str], storage: Storage) -> list[str]:
    if file_size(url, storage) is not None:
        return [url]
    steps = url.split("/")
    magic = next(
        (place for place, step in enumerate(steps) if place > 2 and glob.has_magic(step)), None
    )
    if magic is None:
        return _shards_below(url, list_files(url, storage), suffixes)
    root, pattern = "/".join(steps[:magic]), steps[magic:]
    files = list_files(root, storage)
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    names = sorted(name for name in (*files, *folders) if _matches(name.split("/"), pattern))
    if not names:
        raise _nothing(url)
    nodes = {str(name.parent) for name in map(PurePosixPath, files) if name.name in NODE_FILES}
    urls = []
    for name in _outside(names, nodes.intersection(names)):
        whole = name in files or name in nodes
        urls += (
            [f"{root}/{name}"]
            if whole
            else _shards_below(f"{root}/{name}", _below(files, name), suffixes)
        )
    return list(dict.fromkeys(urls))


def _shards_below(url: str, files: Mapping[str, int], suffixes: Sequence[str]) -> list[str]:
    """As `_locate` of a local folder, from its listing."""
    if not files:
        raise _nothing(url)
    if not NODE_FILES.isdisjoint(files):
        return [url]
    chosen = [
        name
        for name in files
        if name.lower().endswith(tuple(suffixes)) and not _is_hidden(PurePosixPath(name))
    ]
    arrays = sorted(
        {
            found
            for name in files
            if (found := _array_of(name)) and not _is_hidden(PurePosixPath(found))
        }
    )
    return _one_kind(
        url, [f"{url}/{name}" for name in chosen], [f"{url}/{name}" for name in arrays], suffixes
    )


def _one_kind(path: str, files: list[str], arrays: list[str], suffixes: Sequence[str]) -> list[str]:
    """The files, or the arrays, sorted. Raises DataError when there are both, or neither."""
    within = {f"{array}/" for array in arrays}
    files = [file for file in files if not any(file.startswith(array) for array in within)]
    if files and arrays:
        both = f"{Path(files[0]).name}, {Path(arrays[0]).name}"
        raise DataError(
            f"{path}: holds both files and Zarr arrays ({both}). Choose one kind with a glob."
        )
    if not files and not arrays:
        wanted = ", ".join(f"*{suffix}" for suffix in (*suffixes, ".zarr"))
        raise DataError(
            f"{path}: the folder holds no shard ({wanted}). Name another folder, or run streamtrain"
            " ingest."
        )
    return sorted(files or arrays)


def _array_of(name: str) -> str | None:
    """The outermost `.zarr` folder that a file lies in."""
    steps = name.split("/")[:-1]
    place = next((place for place, step in enumerate(steps) if step.endswith(".zarr")), None)
    return None if place is None else "/".join(steps[: place + 1])


def _outside(names: Sequence[str], folders: set[str]) -> list[str]:
    """Those that lie in none of the folders; a folder itself does not."""
    known = set(map(PurePosixPath, folders))  # `./a` and `a/` are `a`
    return [name for name in names if known.isdisjoint(PurePosixPath(name).parents)]


def _below(files: Mapping[str, int], folder: str) -> dict[str, int]:
    return {
        name.removeprefix(f"{folder}/"): size
        for name, size in files.items()
        if name.startswith(f"{folder}/")
    }


def _matches(steps: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name, cut at its slashes, fits a glob; `**` is any number of folders."""
    if not pattern:
        return not steps
    if pattern[0] == "**":
        return _matches(steps, pattern[1:]) or (bool(steps) and _matches(steps[1:], pattern))
    return bool(steps) and fnmatchcase(steps[0], pattern[0]) and _matches(steps[1:], pattern[1:])


def _nothing(path: str) -> DataError:
    return DataError(
        f"{shown(path)}: no such file or folder. Give a Parquet file, a Zarr array, a folder of"
        " them, or a quoted glob."
    )


def _is_hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
