"""A session of a run, and who does its work.

Read `session` first (a run is begun or continued), then `execute` (chunk after chunk in this process). With several
processes, `driver` claims and commits, `supervision` decides what becomes of the items of a process that died;
`workers` (processes of this machine) and `crew` with `on_ray` (a Ray cluster) compute.
"""
