"""A method, models and data make a run: planned, done item by item, stored, and summed up in tables.

From top to bottom; a module imports only from its own package and from those below it:

- `execution`: a session of a run, and who does its work: this process, processes of this machine, or a Ray cluster;
- `checks`: what is wrong with a plan, and one item of each combination as a trial, before a run begins;
- `work`: the items of a run, which of them are left to do, and how a worker does a chunk of them;
- `results`: what a run's folder tells without models or pictures: counts, means with their intervals, tables, exports;
- `plans`: the plan, read from its TOML file, and which of a model's outputs each class of its data is;
- `stores`: where rows, explanations and notes are kept, in SQLite or PostgreSQL;
- `periodic`: a thread that does something every so often.

Read `plans/plan.py`, `work/items.py`, `work/workbench.py` and `execution/execute.py` first: they are a run in one
process. These `__init__` files import nothing, so that `sfumato bench status` answers without loading torch.
"""
