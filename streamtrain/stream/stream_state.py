"""The order of rows in a Stream's state, and the checks before a Stream resumes from it."""

from collections.abc import Mapping
from typing import Any

from streamtrain.errors import ConfigError
from streamtrain.plan.plan import Plan
from streamtrain.storage.data_fingerprint import written_again
from streamtrain.stream.source import Source
from streamtrain.types import Receipt

#: The keys that a state must have.
_STATE_KEYS = ("epoch", "window", "row", "receipt", "receipt_before_window", "imputed", "order")


def saved_window_rows(state: Any) -> int | None:
    """Return the size of the windows that a state counts by.

    Raises ConfigError for what is not the state of a Stream.
    """
    missing = [name for name in _STATE_KEYS if not isinstance(state, dict) or name not in state]
    if missing:
        raise ConfigError(
            f"this is not a Stream's state: {', '.join(missing)} missing. Pass what state_dict()"
            " returned."
        )
    return state["order"].get("window_rows")


def order_of(source: Source, seed: int, holdout_seed: int) -> dict[str, Any]:
    """Return what the order of a Stream's rows depends on, as plain JSON values."""
    return {
        "seed": seed,
        "window_rows": source.window_rows,
        "spans": source.spans.fingerprint,
        "holdout_rows": source.holdout.num_rows,
        **({"holdout_seed": holdout_seed} if source.holdout.num_rows else {}),
        "data": source.dataset.fingerprint,
        "manifest": source.dataset.digest,
        "stamps": source.dataset.stamps,
        "columns": list(source.dataset.columns),
        "on_null": source.on_null,
        "on_bad_shard": "error" if source.quarantine is None else "quarantine",
        "transform": None if source.transform is None else source.transform.record(),
    }


def check_order(state: Mapping[str, Any], order: Mapping[str, Any]) -> None:
    """Raise ConfigError when a state was saved under another order of rows than `order`."""
    # one seed decided both when a state had no holdout_seed
    saved_order = {"holdout_seed": state["order"].get("seed"), **state["order"]}
    # older states have neither
    saved_order = {name: order[name] for name in ("manifest", "stamps")} | saved_order
    changes = [
        f"{name} was {saved_order.get(name)!r}, is {value!r}"
        for name, value in order.items()
        if name != "stamps" and saved_order.get(name) != value
    ]
    if changes:
        raise ConfigError(
            f"this state belongs to another order of rows ({'; '.join(changes)}). Open the stream"
            " with the options that it was saved under."
        )
    if changed := written_again(saved_order["stamps"], order["stamps"]):
        raise ConfigError(
            f"this state cannot be resumed: {changed}, so rows may differ although sizes and"
            " footers do not. If it was only copied or touched, set state['order']['stamps'] = None"
            " first; if not, restore it."
        )


def check_position(name: str, number: Any, most: int | None = None) -> None:
    """Raise ConfigError unless `number` is a whole number from 0 to `most`."""
    whole = isinstance(number, int) and not isinstance(number, bool)
    if whole and 0 <= number <= (number if most is None else most):
        return
    limit = f"0 to {most:,}" if most else "0"
    raise ConfigError(
        f"{name} {number!r} is not a position of this stream: expected a whole number from {limit}."
    )


def check_place(state: Mapping[str, Any], plan: Plan) -> tuple[Receipt, Receipt]:
    """Return the receipts of a state: before its window, and of all rows delivered.

    Raises ConfigError unless its window and row are a position in `plan`, the plan of its epoch.
    """
    window, row = state["window"], state["row"]
    check_position("window", window, len(plan))
    check_position("row", row, plan.window(window).num_rows if window < len(plan) else 0)
    try:
        before, receipt = state["receipt_before_window"], state["receipt"]
        return Receipt.from_json(before), Receipt.from_json(receipt)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the receipt of this state cannot be read ({type(error).__name__}: {error}). Pass what"
            " state_dict() returned."
        ) from error
