"""The command line: one file per verb, and what the verbs share.

`main` runs a verb, `flag_groups` defines the options, `config_layers` combines the five sources of
the config, `terminal` writes to stdout and stderr, and `progress` shows how a run proceeds. A verb
imports what it calls inside its function, so that `--help` stays fast.
"""

import sys
import time
from typing import NoReturn

from streamtrain.base.imports import importing_without_gc


def start() -> NoReturn:
    """Run the console script; Ctrl-C shows no traceback, even while `main` is being imported.

    The command begins here. The system's time of the process's start would be wrong after `exec`.
    """
    began = time.perf_counter()
    try:
        with importing_without_gc("streamtrain.cli.main"):
            from streamtrain.cli.main import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    main(began)
