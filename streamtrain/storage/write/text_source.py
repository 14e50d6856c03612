"""The bytes of a text file: decompressed, as UTF-8, in chunks of whole rows."""

import bz2
import codecs
import gzip
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

import pyarrow as pa

from streamtrain.errors import ConfigError, DataError, shown
from streamtrain.storage.remote.filesystem import open_sequential
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Storage

#: Bytes of a chunk, and how many are searched for the end of a row.
CHUNK_BYTES = 16 << 20
_SEARCHED_BYTES = 1 << 20
LONGEST_ROW_BYTES = 64 << 20

#: First bytes → what such a file is.
_MAGIC = {
    b"%PDF": "a PDF document",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an old Excel or Office document",
    b"-----BEGIN PGP": "encrypted with PGP",
    b"Salted__": "encrypted with OpenSSL",
    b"age-encryption.org": "encrypted with age",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x93NUMPY": "a NumPy array",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
#: First bytes of what Arrow decompresses.
_ARROW_CODECS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
#: Methods of zip that the zipfile module may not know (APPNOTE.TXT 6.3.10, 4.4.5).
_ZIP_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_bytes(path: str, storage: Storage) -> Iterator[IO[bytes] | Any]:
    """Open a text file; its first bytes, not its name, show how it is compressed.

    Raises DataError for an archive of several files and for one that is encrypted.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open_sequential(path, storage))
        head = raw.peek(8)[:8]
        if head.startswith(b"\x1f\x8b"):
            yield stack.enter_context(gzip.GzipFile(fileobj=raw))
        elif head.startswith(b"BZh"):
            yield _Members(raw, bz2.BZ2Decompressor)
        elif head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
            yield _Members(raw, lzma.LZMADecompressor)
        elif codec := _ARROW_CODECS.get(head[:4]):
            file = stack.enter_context(pa.PythonFile(raw, mode="r"))
            yield stack.enter_context(pa.CompressedInputStream(file, codec))
        elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield _open_zip(path, raw, stack)
        else:
            yield raw


class _Members:
    """The decompressed bytes of a bzip2 or xz file: its members, with zeros after any of them.

    The files of `bz2` and `lzma` end without an error where a later member does not begin as one.
    """

    def __init__(
        self, raw: IO[bytes], new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
    ):
        self._raw, self._new, self._member = raw, new, new()

    def read(self, num_bytes: int) -> bytes:
        """Return up to this many bytes, none at the end. Raises EOFError and LZMAError."""
        while True:
            content = b""
            if self._member.eof:
                content = self._member.unused_data.lstrip(b"\0")
                while not content:
                    if not (block := self._raw.read(_SEARCHED_BYTES)):
                        return b""
                    content = block.lstrip(b"\0")
                self._member = self._new()
            elif self._member.needs_input and not (content := self._raw.read(_SEARCHED_BYTES)):
                raise EOFError("the end is missing")
            try:
                part = self._member.decompress(content, num_bytes)
            except OSError as error:  # bz2, for data of no member
                raise EOFError(str(error)) from error
            if part:
                return part


def _open_zip(path: str, raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """Open the only file of a zip archive, until the `stack` ends.

    Raises DataError for a method of compression that the zipfile module does not know.
    """
    method = zipfile.ZIP_STORED
    try:
        archive = stack.enter_context(zipfile.ZipFile(raw))
        member = _only_member(path, archive)
        method = member.compress_type
        return stack.enter_context(archive.open(member))
    except NotImplementedError as error:
        if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = f"is a zip archive of a kind that is not read here ({shown(str(error))})"
        else:
            number = f"zip method {method}"
            name = f"{_ZIP_METHODS[method]} ({number})" if method in _ZIP_METHODS else number
            reason = f"is compressed with {name}, which is not read here"
        raise DataError(
            f"{path}: {reason}. Unpack it and name the file in it, or pack it again with Deflate,"
            " the usual method."
        ) from error


def _only_member(path: str, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith(("__MACOSX/", "."))
    ]
    names = [member.filename for member in members]
    if "xl/workbook.xml" in names:
        raise DataError(f"{path}: is an Excel workbook, not text. Save it as CSV.")
    if len(members) != 1:
        listed = ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")
        raise DataError(
            f"{path}: holds {len(names):,} files ({listed}). Unpack it, and name one of them."
        )
    if members[0].flag_bits & 1:
        raise DataError(f"{path}: is encrypted with a password. Unpack it first.")
    return members[0]


def read_sample(path: str, storage: Storage, num_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes of a file, decompressed, and whether they are all of it.

    Raises DataError for a file that is not text.
    """
    with decompressing(path), open_bytes(path, storage) as file:
        sample = _read(file, num_bytes)
        whole = len(sample) < num_bytes
    if sample[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive. Unpack it, and name one of its files.")
    for magic, what in _MAGIC.items():
        if sample.startswith(magic):
            remedy = "Decrypt it first" if "encrypted" in what else "Save it as CSV"
            raise DataError(f"{path}: is {what}, not a table as text. {remedy}.")
    return sample, whole


@contextmanager
def decompressing(path: str) -> Iterator[None]:
    """Turn the errors of decompression into a DataError."""
    try:
        yield
    except (
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
    ) as error:
        raise DataError(
            f"{path}: its compressed data are damaged or cut off ({shown(str(error))}). Copy"
            f" {os.path.basename(path)} again."
        ) from error


def find_encoding(path: str, sample: bytes, wanted: str | None) -> str:
    """Return the codec of a file: the one that is wanted, or what its first bytes show.

    Raises ConfigError for an unknown codec, and DataError for bytes that are not text.
    """
    if wanted is not None:
        try:
            codecs.lookup(wanted)
        except LookupError:
            raise ConfigError(
                f"--encoding {shown(wanted)} is unknown. Write it like utf-8, latin-1 or utf-16."
            ) from None
        return wanted
    for bom, name in _BOMS.items():
        if sample.startswith(bom):
            return name
    if b"\0" in sample:
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        if max(even, odd) > 0.3 * len(sample) / 2 and min(even, odd) == 0:
            return "utf-16-be" if even else "utf-16-le"
        raise DataError(
            f"{path}: is not text: it has bytes of value 0. If it is encrypted or compressed,"
            " unpack it first."
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    odd = len(re.findall(rb"[\x00-\x08\x0e-\x1f\x7f]", sample))
    if odd > len(sample) / 100:
        raise DataError(f"{path}: is not text. If it is encrypted or compressed, unpack it first.")
    try:
        sample.decode("cp1252")
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"


def as_utf8(content: bytes, encoding: str, *, whole: bool) -> bytes:
    """Return the first bytes of a file as UTF-8 without a byte order mark.

    A character that is cut off at the end is left out unless the bytes are `whole`.
    """
    text = codecs.getincrementaldecoder(encoding)().decode(content, final=whole)
    return text.removeprefix("\ufeff").encode()


def read_chunks(
    path: str, storage: Storage, encoding: str, *, quotes: bool = True
) -> Iterator[bytes]:
    """Yield a file as UTF-8 in chunks of whole rows; see `whole_rows`."""
    yield from whole_rows(read_blocks(path, storage, encoding), quotes=quotes)


def read_blocks(path: str, storage: Storage, encoding: str) -> Iterator[bytes]:
    """Yield a file as UTF-8 in blocks that may end anywhere.

    Raises DataError for a local file that was written to meanwhile: its last row may be half a row.
    """
    before = _state(path)
    with decompressing(path), open_bytes(path, storage) as file:
        yield from _decoded(file, encoding)
    if _state(path) != before:
        raise DataError(
            f"{path}: was changed while it was read. Run again when nothing writes to it."
        )


def _state(path: str) -> tuple[int, ...]:
    """Return what changes with a local file; empty for one in a store, and one that is gone."""
    with suppress(OSError):
        if not is_remote(path):
            status = os.stat(path)
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return ()


def whole_rows(blocks: Iterator[bytes], *, quotes: bool = True) -> Iterator[bytes]:
    """Cut and join blocks of bytes so that each ends where a row ends.

    That is at a line end, with `quotes` outside of quotation marks.
    """
    held = b""
    for block in blocks:
        held += block
        end = _end_of_rows(held) if quotes else held.rfind(b"\n") + 1
        if end:
            yield held[:end]
            held = held[end:]
        elif len(held) > LONGEST_ROW_BYTES:
            raise DataError(f"a row has more than {LONGEST_ROW_BYTES:,} bytes. Is it a table?")
    if held:
        yield held


def _decoded(file: IO[bytes], encoding: str) -> Iterator[bytes]:
    plain = codecs.lookup(encoding).name == "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True
    while True:
        block = _read(file, CHUNK_BYTES)
        if not plain:
            text = decoder.decode(block, final=not block)
            content = text.removeprefix("\ufeff").encode() if first else text.encode()
        else:
            content = block
        first = False
        if content:
            yield content
        if not block:
            return


def _read(file: IO[bytes], num_bytes: int) -> bytes:
    """Return this many bytes, or those up to the end; a single read may return fewer."""
    parts: list[bytes] = []
    while num_bytes and (part := file.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _end_of_rows(content: bytes) -> int:
    """Return the length of the whole rows at the start of `content`."""
    last = max(content.rfind(b"\n"), content.rfind(b"\r", 0, len(content) - 1))
    end = last
    odd = content.count(b'"', 0, end) % 2 if end > 0 else 0
    while odd and end > max(0, last - _SEARCHED_BYTES):
        before = content.rfind(b"\n", 0, end)
        if before < 0:
            break
        odd ^= content.count(b'"', before, end) % 2
        end = before
    if not odd:
        return end + 1
    # After that many bytes an odd number is a mark inside a field, like the one of inches.
    return last + 1 if len(content) > _SEARCHED_BYTES else 0
