"""`streamtrain verify`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.base.words import aligned, plural
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import DATA, DataPath, Output, StorageOption
from streamtrain.cli.terminal import show


def verify(
    data: DataPath,
    /,
    *,
    fail_on: Annotated[
        Literal["unverified"] | None,
        Parameter(group=DATA, help="exit 5 when a shard has no checksums or hash to check"),
    ] = None,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> int:
    """Check every footer, page, chunk and hash of a data set; exit 3 when a shard is bad."""
    from streamtrain.errors import CheckFailed, DataError
    from streamtrain.storage.remote.store_options import make_storage
    from streamtrain.storage.verify import verify as verify_data

    found = verify_data(data, storage=make_storage(storage_options(storage_option)))
    size = (
        f"{plural(found.num_shards, 'shard')}, {plural(found.num_rows, 'row')}, {found.num_bytes:,}"
        " bytes"
    )
    rows = [[finding.url, finding.place, finding.cause] for finding in found.findings]
    text = f"{found.url}: {found.integrity}\n{size}"
    if rows:
        text += "\n\n" + aligned([["file", "place", "cause"], *rows])
        text += "\n\nRestore these files, or train without them: --on-bad-shard quarantine."
    elif found.unvouched:
        text += (
            "\nAll data decodes and all counts agree, but not every byte has a checksum;"
            " streamtrain ingest writes shards that can be verified."
        )
    show(text, found.to_json(), as_json=output.json)
    if rows:
        return DataError.exit_code
    return CheckFailed.exit_code if fail_on and found.unvouched else 0
