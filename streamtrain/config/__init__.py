"""The configuration of a run: its sections, how values may be written, and the tables of flags.

Other folders import from this package, not from its modules.
"""

from streamtrain.config.flag_table import (
    DATA_FLAGS,
    SWEEP_FLAGS,
    TEXT_FLAGS,
    TRAIN_FLAGS,
    flag_name,
)
from streamtrain.config.load import (
    RESOLVED,
    config_keys,
    flag_values,
    make_config,
    merge,
    set_key,
    with_holdout_seed,
)
from streamtrain.config.sections import (
    DEFAULT_BUDGET,
    ClusterConfig,
    Config,
    DataConfig,
    FetchConfig,
    ModelConfig,
)
from streamtrain.config.train_section import TrainConfig
from streamtrain.config.values import AUTO

__all__ = [
    "AUTO",
    "DATA_FLAGS",
    "DEFAULT_BUDGET",
    "RESOLVED",
    "SWEEP_FLAGS",
    "TEXT_FLAGS",
    "TRAIN_FLAGS",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "FetchConfig",
    "ModelConfig",
    "TrainConfig",
    "config_keys",
    "flag_name",
    "flag_values",
    "make_config",
    "merge",
    "set_key",
    "with_holdout_seed",
]
