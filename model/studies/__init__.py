"""Studies: the product's machinery on other people's problems.

A study is a folder here with a loader, a configuration and a report; blocks, losses, baselines, calibration, metrics and the
form of the report are the product's. `emberwatch study NAME` runs it, and nothing of the product imports it (docs/studies.md).
"""
