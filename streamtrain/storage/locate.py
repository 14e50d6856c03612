"""Find the files that a path means.

A file, a folder, a glob, or a list of files, local or in an object store → the URLs of the shards,
sorted.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from streamtrain.base.caller import warn_caller
from streamtrain.errors import DataError, shown
from streamtrain.storage.folder_choice import (
    PARQUET_SUFFIX,
    add_other_parquet,
    choose_split,
    may_be_parquet,
)
from streamtrain.storage.foreign.table_marks import (
    refuse_listed_tables,
    refuse_local_tables,
    refuse_remote_table,
)
from streamtrain.storage.remote.filesystem import file_size, is_folder, list_files
from streamtrain.storage.remote.store_options import take_query
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.zarr.node_files import NODE_FILES, is_zarr
from streamtrain.types import LOCAL, Shard, Storage

#: A text file that names the shards, one per line.
LIST_SUFFIX = ".txt"
_MAX_LIST_BYTES = 1 << 26
#: Every ext4 disk has this folder at its root, readable by its owner only.
_LOST_AND_FOUND = "lost+found"


class NothingFound(DataError):
    """A path means no file of the kinds that were looked for."""


def locate(
    path: str, suffixes: Sequence[str] = (PARQUET_SUFFIX,), storage: Storage = LOCAL
) -> list[str]:
    """Return the files with one of `suffixes` and the Zarr nodes that `path` means, each once.

    Folders are searched recursively. A file that is named, or matched by a glob, is taken whatever
    its suffix. Hidden files and folders, and those that start with `_`, are left out. Of a folder
    with several splits, `train` is taken; a warning says what is not taken.

    Raises NothingFound, and DataError for a name with control characters, a pipe or a device, and
    for files of a Delta, Iceberg or Hudi table; StoreError when a store does not answer.
    """
    if is_remote(path):
        urls = _locate_remote(path, suffixes, storage)
    else:
        refuse_local_tables(path, ())
        urls = _locate(path, suffixes)
        refuse_local_tables(path, urls)
    named = path if is_remote(path) else _named_folder(path)
    for url in urls:
        # the path that the user gave may have any name; a name found below it may be deceptive
        if not url.removeprefix(named).isprintable():
            raise DataError(f"{shown(url)}: the name contains control characters. Rename it.")
        if not is_remote(url) and not (os.path.isfile(url) or os.path.isdir(url)):
            raise DataError(f"{url}: not a regular file. Name a table, or leave this one out.")
    return urls


def warn_of_links(path: str, shards: Sequence[Shard]) -> None:
    """Warn of files that have two names in the data set: each of their rows is used twice."""
    seen: dict[tuple[int, int], str] = {}
    for shard in shards:
        with suppress(OSError):
            status = os.stat(shard.url)
            if not status.st_ino:
                continue  # a file system without inode numbers
            first = seen.setdefault((status.st_dev, status.st_ino), shard.url)
            if first != shard.url:
                warn_caller(
                    f"{path}: {shard.url} and {first} are the same file: each row of it is used"
                    " twice. Remove one of the names unless this is intended."
                )


def read_list(path: str, storage: Storage = LOCAL) -> tuple[list[str], Storage] | None:
    """Return the URLs that a local `.txt` file lists, in its order; None for any other path.

    Empty lines and lines that start with # are skipped; a relative path is relative to the folder
    of the list. The returned storage also knows the signatures of the links.

    Raises DataError.
    """
    if is_remote(path) or not path.lower().endswith(LIST_SUFFIX) or not os.path.isfile(path):
        return None
    if os.path.getsize(path) > _MAX_LIST_BYTES:
        raise DataError(
            f"{path}: a list of files has at most {_MAX_LIST_BYTES:,} bytes. Split it in two."
        )
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of files: {error}. Write one URL per line."
        ) from None
    urls = []
    folder = os.path.dirname(path)
    for line in lines:
        if line and not line.startswith("#"):
            url, storage = take_query(line, storage)
            urls.append(normal_url(url if is_remote(url) else os.path.join(folder, url)))
    if not urls:
        raise DataError(f"{path}: lists no files. Write one URL per line.")
    if len(set(urls)) < len(urls):
        repeated = min(url for url in urls if urls.count(url) > 1)
        raise DataError(f"{path}: lists {shown(repeated)} twice. List every file once.")
    refuse_local_tables(path, [url for url in urls if not is_remote(url)])
    return urls, storage


def _locate(path: str, suffixes: Sequence[str]) -> list[str]:
    if os.path.exists(path):
        if os.path.isdir(path) and not is_zarr(path):
            return _one_kind(path, *_walk(path, suffixes), suffixes)
        return [path]
    # `absent/**` matches `absent/` according to glob, though it does not exist
    matches = sorted(filter(os.path.lexists, glob.glob(_pattern(path), recursive=True)))
    if not matches:
        raise _not_found(path)
    arrays = {match for match in matches if os.path.isdir(match) and is_zarr(match)}
    urls = []
    for match in _not_within(matches, arrays):
        urls += _locate(match, suffixes) if os.path.isdir(match) else [match]
    # `data/**` matches a folder, its subfolders, and their files: each file is taken once.
    return list(dict.fromkeys(map(normal_url, urls)))


def _pattern(path: str) -> str:
    """Return a path as a pattern in which the folders that exist are taken by their names.

    So the brackets of a folder `run[1]` are not taken for a pattern.
    """
    folder = _named_folder(path)
    return glob.escape(folder) + path.removeprefix(folder)


def _named_folder(path: str) -> str:
    """Return the longest prefix of a path that is a folder; empty where none is."""
    parts = path.split("/")
    folders = ("/".join(parts[:stop]) for stop in range(len(parts), 0, -1))
    return next(filter(os.path.isdir, folders), "")


def _walk(root: str, suffixes: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the files with one of `suffixes`, the Zarr arrays, and the other files of a folder.

    Links to folders are followed last; each folder is entered once, however many names it has. A
    link to a missing file is kept, so that it is refused and not skipped silently.

    Raises DataError for a folder that cannot be listed.
    """
    files: list[str] = []
    arrays: list[str] = []
    others: list[str] = []
    links = [root]
    entered: set[tuple[int, int]] = set()
    while links:
        top = links.pop(0)
        if top != root and _contains(top, root):
            continue  # a link upwards: files beside the root are not part of it
        for folder, folders, names in os.walk(top, onerror=_refuse_folder):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith((".", "_")) and name != _LOST_AND_FOUND
            )
            for name in list(folders):
                path = os.path.join(folder, name)
                if name.endswith(".zarr"):
                    arrays.append(path)
                    folders.remove(name)
                elif os.path.islink(path):
                    links.append(path)
                    folders.remove(name)
            for name in names:
                path = os.path.join(folder, name)
                # os.walk lists a broken link to an array among the files
                endings = (*suffixes, ".zarr") if os.path.islink(path) else tuple(suffixes)
                if not name.startswith((".", "_")):
                    (files if name.lower().endswith(endings) else others).append(path)
    return files, arrays, others


def _contains(folder: str, other: str) -> bool:
    """Return whether `other` is `folder` or is inside it, with links resolved."""
    inner, outer = (os.path.join(os.path.realpath(path), "") for path in (other, folder))
    return inner.startswith(outer)


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"{shown(str(error.filename))}: cannot be listed: {error.strerror or error}. Check its"
        " permissions, or move it away."
    ) from error


def _locate_remote(url: str, suffixes: Sequence[str], storage: Storage) -> list[str]:
    refuse_remote_table(url, storage)
    if file_size(url, storage) is not None:
        return [url]
    parts = url.split("/")
    # the scheme and the bucket are the first three parts
    first_magic = next(
        (
            index
            for index, part in enumerate(parts)
            if index > 2
            and glob.has_magic(part)
            # a folder may have brackets in its name
            and not ("[" in part and is_folder("/".join(parts[: index + 1]), storage))
        ),
        None,
    )
    if first_magic is None:
        files = list_files(url, storage)
        refuse_listed_tables(url, url, files, [])
        urls = _shards_below(url, files, suffixes)
        refuse_listed_tables(url, url, files, urls)
        return urls
    root, pattern = "/".join(parts[:first_magic]), parts[first_magic:]
    files = list_files(root, storage)
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    names = sorted(name for name in (*files, *folders) if _matches(name.split("/"), pattern))
    if not names:
        raise _not_found(url)
    nodes = {str(name.parent) for name in map(PurePosixPath, files) if name.name in NODE_FILES}
    urls = []
    for name in _not_within(names, nodes.intersection(names)):
        if name in files or name in nodes:
            urls.append(f"{root}/{name}")
        else:
            urls += _shards_below(f"{root}/{name}", _below(files, name), suffixes)
    refuse_listed_tables(url, root, files, urls)
    return list(dict.fromkeys(urls))


def _shards_below(url: str, files: Mapping[str, int], suffixes: Sequence[str]) -> list[str]:
    """Return the shards of a remote folder, by the rules of a local one.

    `files`: its listing, relative name → size.
    """
    if not files:
        raise _not_found(url)
    if not NODE_FILES.isdisjoint(files):
        return [url]
    visible = [name for name in files if not _is_hidden(PurePosixPath(name))]
    chosen = [name for name in visible if name.lower().endswith(tuple(suffixes))]
    others = [name for name in visible if not name.lower().endswith(tuple(suffixes))]
    arrays = {array for name in files if (array := _outermost_array(name))}
    arrays = {array for array in arrays if not _is_hidden(PurePosixPath(array))}
    chosen, arrays, others = (
        [f"{url}/{name}" for name in names] for names in (chosen, sorted(arrays), others)
    )
    return _one_kind(url, chosen, arrays, others, suffixes)


def _one_kind(
    path: str, files: list[str], arrays: list[str], others: list[str], suffixes: Sequence[str]
) -> list[str]:
    """Return the files, or the arrays, sorted, of one split.

    `others`: files with other suffixes, which may be Parquet all the same.

    Raises DataError when there are both files and arrays, or neither.
    """
    prefixes = tuple(f"{array}/" for array in arrays)
    files = [file for file in files if not file.startswith(prefixes)]
    if PARQUET_SUFFIX in suffixes and not arrays:
        files = add_other_parquet(path, files, list(filter(may_be_parquet, others)))
    if files and arrays:
        both = f"{Path(files[0]).name}, {Path(arrays[0]).name}"
        raise DataError(
            f"{path}: contains both files and Zarr arrays ({both}). Choose one kind with a glob."
        )
    if not files and not arrays:
        patterns = ", ".join(f"*{suffix}" for suffix in (*suffixes, ".zarr"))
        raise NothingFound(
            f"{path}: the folder contains no shards ({patterns}) and no tables, such"
            " as *.csv. Name another folder."
        )
    return choose_split(path, sorted(files or arrays))


def _outermost_array(name: str) -> str | None:
    """Return the outermost `.zarr` folder that contains a file."""
    folders = name.split("/")[:-1]
    for index, folder in enumerate(folders):
        if folder.endswith(".zarr"):
            return "/".join(folders[: index + 1])
    return None


def _not_within(names: Sequence[str], folders: set[str]) -> list[str]:
    """Return the names that are not inside any of the folders; a folder is not inside itself."""
    paths = set(map(PurePosixPath, folders))  # `./a` and `a/` equal `a`
    return [name for name in names if paths.isdisjoint(PurePosixPath(name).parents)]


def _below(files: Mapping[str, int], folder: str) -> dict[str, int]:
    prefix = f"{folder}/"
    return {
        name.removeprefix(prefix): size for name, size in files.items() if name.startswith(prefix)
    }


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path fits a glob, both split at slashes; `**` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _not_found(path: str) -> NothingFound:
    pattern = ", and as a pattern it matches nothing" if glob.has_magic(path) else ""
    return NothingFound(
        f"{shown(path)}: no such file or folder{pattern}. Give a Parquet or text file, a Zarr"
        " array, a folder of them, or a quoted glob."
    )


def _is_hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
