"""The tables of flags that the command line and the Python API share."""

#: How tables, most of all text files, are read: the flags of every verb that takes data.
TEXT_FLAGS = {
    "delimiter": "data.delimiter",
    "decimal": "data.decimal",
    "na_values": "data.na_values",
    "header": "data.header",
    "encoding": "data.encoding",
    "datetime": "data.datetime",
}

#: Each table maps a flag of `sweep`, `train` and the Python API to its key in the config.
DATA_FLAGS = {
    "target": "data.target",
    "features": "data.features",
    "holdout": "data.holdout",
    "holdout_seed": "eval.holdout_seed",
    "eval_data": "data.eval_data",
    "on_null": "data.on_null",
    "on_bad_shard": "data.on_bad_shard",
    "transform": "data.transform",
    "standardize": "data.standardize",
    "storage_options": "data.storage_options",
    **TEXT_FLAGS,
    "seed": "order.seed",
    "span_rows": "order.span_rows",
    "window_rows": "order.window_rows",
    "memory": "fetch.memory",
    "readers": "fetch.readers",
}
MODEL_FLAGS = {
    "hidden": "model.hidden",
    "activation": "model.activation",
    "model": "model.factory",
    "loss": "train.loss",
    "optimizer": "train.optimizer",
    "lr": "train.lr",
    "average": "train.average",
    "engine": "train.engine",
    "device": "train.device",
    "epochs": "train.epochs",
    "max_rows": "train.max_rows",
    "max_time": "train.max_time",
}
CLUSTER_FLAGS = {
    "scheduler": "cluster.scheduler",
    "scheduler_file": "cluster.scheduler_file",
    "workers": "cluster.workers",
    "cluster": "cluster.factory",
    "max_failures": "cluster.max_failures",
    "min_workers": "cluster.min_workers",
}
TRAIN_FLAGS = (
    DATA_FLAGS
    | MODEL_FLAGS
    | CLUSTER_FLAGS
    | {
        "batch_size": "train.batch_size",
        "batch_schedule": "train.batch_schedule",
        "early_stop": "train.early_stop",
        "sync": "cluster.sync",
    }
)
SWEEP_FLAGS = (
    DATA_FLAGS
    | MODEL_FLAGS
    | CLUSTER_FLAGS
    | {
        "batch_sizes": "sweep.batch_sizes",
        "budget": "sweep.budget",
        "goal": "sweep.goal",
        "within": "sweep.within",
        "lr_grid": "sweep.lr_grid",
        "trials": "sweep.trials",
        "target_loss": "sweep.target_loss",
        "target_rmse": "sweep.target_rmse",
        "halving": "sweep.halving",
        "lr_rule": "sweep.lr_rule",
        "measure": "sweep.measure",
        "confirm": "sweep.confirm",
        "grow": "sweep.grow",
        "rerun": "sweep.rerun",
        "extend_grid": "sweep.extend_grid",
    }
)


def flag_name(flag: str) -> str:
    """Return the command-line name of a flag.

    The name of `storage_options` is singular, since each use of the flag gives one option.
    """
    return "--" + ("storage-option" if flag == "storage_options" else flag.replace("_", "-"))
