"""The command: one file a verb, and what the verbs share.

`main` is the door; `flags` the options, `layers` the config from its five sources, `terminal` what
is written where, `progress` the lines of a run. A verb imports what it calls inside its function,
so that `--help` stays fast.
"""

import sys
from typing import NoReturn


def start() -> NoReturn:
    """The console script. Ctrl-C while `main` is still being imported is no traceback either."""
    try:
        from streamtrain.cli.main import main
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    main()
