"""The records of a run: one typed value per line of `events.jsonl`.

`parse_record` is the only reader of their JSON form and `Record.to_json` the only writer. Keys name
their units. Logs of older versions parse too: every field that a version added has a default.
"""

from streamtrain.records.events import (
    SCHEMA_VERSION,
    Baseline,
    DataInfo,
    Evaluation,
    MemoryInfo,
    NullSummary,
    Outcome,
    PassEnded,
    QuarantineChanged,
    ReferenceLoss,
    ReplicaEnded,
    RunEnded,
    RunStarted,
)
from streamtrain.records.parsing import (
    OtherRecord,
    parse,
    parse_pass,
    parse_record,
    started_record,
)
from streamtrain.records.record import (
    OPTIONAL,
    Emit,
    Record,
    WrittenAs,
    is_optional,
    json_fields,
    json_values,
    to_json,
)
from streamtrain.records.sweep_events import (
    Confirmed,
    DeliveryTimed,
    Measured,
    MeasuringStarted,
    PassPlanned,
    RoundEnded,
    StepsTimed,
    SyncChosen,
    TargetWinners,
    WinningRates,
)

__all__ = [
    "OPTIONAL",
    "SCHEMA_VERSION",
    "Baseline",
    "Confirmed",
    "DataInfo",
    "DeliveryTimed",
    "Emit",
    "Evaluation",
    "Measured",
    "MeasuringStarted",
    "MemoryInfo",
    "NullSummary",
    "OtherRecord",
    "Outcome",
    "PassEnded",
    "PassPlanned",
    "QuarantineChanged",
    "Record",
    "ReferenceLoss",
    "ReplicaEnded",
    "RoundEnded",
    "RunEnded",
    "RunStarted",
    "StepsTimed",
    "SyncChosen",
    "TargetWinners",
    "WinningRates",
    "WrittenAs",
    "is_optional",
    "json_fields",
    "json_values",
    "parse",
    "parse_pass",
    "parse_record",
    "started_record",
    "to_json",
]
