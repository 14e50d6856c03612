"""The command: one file a verb, and what the verbs share.

`main` is the door; `flags` the options, `layers` the config from its five sources, `terminal` what is written where,
`progress` the lines of a run. A verb imports what it calls inside its function, so that `--help` stays fast.
"""
