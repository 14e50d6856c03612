"""The JSON schema of `streamtrain inspect --json`, generated from `Inspection`.

The package ships it as `inspect.schema.json`. Regenerate it after changing a type:

    python -m streamtrain.cli.inspect_schema > streamtrain/cli/inspect.schema.json
"""

import json

from streamtrain.report.summary_schema import schema_of
from streamtrain.storage.inspection import Inspection
from streamtrain.types import Json


def inspect_schema() -> Json:
    """Return the JSON schema of what `inspect --json` writes."""
    return schema_of(Inspection, "streamtrain inspect --json")


if __name__ == "__main__":
    print(json.dumps(inspect_schema(), indent=1))
