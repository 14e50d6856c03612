"""The report of a run: a pure function of `events.jsonl`; it opens no data set and trains nothing.

```
records ──collect──▶ Run ──analyze──▶ Analysis ──▶ texts · tables · charts ──▶ report.html, .md
                                          └──▶ summary.json, summary.csv
```
"""
