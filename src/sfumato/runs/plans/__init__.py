"""The plan of a run: models × methods × data × protocols, and what their names mean.

Read `plan` first, then `catalogue` (what a plan may name), `classes` (which of a model's outputs each class of a data
set is) with `spellings`, `unmatched` and `class_notes`, and `findings` with `data_sample` (what is known of a plan before
its first picture). `cluster` holds the settings of workers on a Ray cluster.
"""
