"""The items of a run, and how a worker does them. Nothing here claims or commits: that is the driver's part.

Read `items` first (what an item depends on) with `source` (the code it depends on), then `register` (the data sets of
a run), `undone` (what is left to do), and `workbench` (a chunk from pictures to rows) with `kept` (explanations of
earlier work). `faults` says what an error means; `steps` say where a worker is.
"""
