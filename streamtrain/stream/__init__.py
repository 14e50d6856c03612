"""Plan → fetch → shuffle → minibatches.

`Plan` is arithmetic: which spans make which window. `fetch` builds windows into `Block`s, ahead of
use, with Dask. `survey` reads the held-out rows and the statistics once. `Stream` cuts blocks into
torch minibatches.
"""
