"""From records to answers: a pure function of `events.jsonl`; it opens no data set, trains nothing.

```
records ──run──▶ Run ──cells──▶ figures per batch size ──rule, verdict──▶ summary
summary ──▶ table · charts · html · write
```
"""
