"""Files of other formats, which are told by their first bytes, and what to do with them."""

_SHEET = "a spreadsheet: save the sheet as CSV"

#: First bytes → what a file is, and the next move.
_KINDS = {
    b"PK\x03\x04": "a zip archive: unpack it; one that holds a single CSV may be named .csv.zip",
    b"\xd0\xcf\x11\xe0": _SHEET,
    b"\x1f\x8b": "compressed by gzip: if it is CSV, name it .csv.gz, else decompress it",
    b"(\xb5/\xfd": "compressed by zstd: if it is CSV, name it .csv.zst, else decompress it",
    b"\x04\x22\x4d\x18": "compressed by lz4: if it is CSV, name it .csv.lz4, else decompress it",
    b"\x1f\x9d": "compressed by compress: decompress it (gunzip does)",
    b"\x5d\0\0": "compressed by lzma: if it is CSV, name it .csv.xz, else decompress it",
    b"BZh": "compressed by bzip2: if it is CSV, name it .csv.bz2, else decompress it",
    b"\xfd7zXZ": "compressed by xz: if it is CSV, name it .csv.xz, else decompress it",
    b"ARROW1": "an Arrow file: name it .arrow",
    b"\x89HDF": "HDF5 or NetCDF: write it as Zarr (xarray: to_zarr) or Parquet",
    b"CDF": "NetCDF: write it as Zarr (xarray: to_zarr) or Parquet",
    b"Obj\x01": "Avro: write it as Parquet",
    b"ORC": "ORC: write it as Parquet (pyarrow.orc reads it)",
    b"SQLite format 3": "an SQLite database: export the table as CSV or Parquet",
    b"\x93NUMPY": "an array of NumPy: write it as Parquet or Zarr",
    b"%PDF": "a PDF document: export the table as CSV",
}
_TAR_SUFFIXES = (".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_SHEETS = (".xlsx", ".xlsm", ".xlsb", ".ods")

#: Bytes from the start of a file that tell its format.
MAGIC_BYTES = max(map(len, _KINDS))


def other_format(url: str, head: bytes) -> str:
    """Return what a file is that is no Parquet file, and the next move; "" where unknown.

    `head`: its first `MAGIC_BYTES` bytes.
    """
    if head.startswith(b"PK") and url.lower().endswith(_SHEETS):
        return _SHEET
    if url.lower().endswith(_TAR_SUFFIXES):
        return "a tar archive: unpack it, and name one of its files"
    if url.lower().endswith(".br"):
        return "compressed by brotli, judging by its name: decompress it (brotli --decompress)"
    return next((what for magic, what in _KINDS.items() if head.startswith(magic)), "")
