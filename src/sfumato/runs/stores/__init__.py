"""Where a run keeps its rows, explanations and notes. Nothing here knows of plans, models or methods.

Read `store` first: it is the interface. `opened` opens a run's store. `sql` implements it for both databases, with
`tables`, `sql_queries` and `earlier` (runs of earlier formats); `sqlite` and `postgres` say what differs between
them. `shards` writes explanations to files; `content` hashes files; `causes` groups reasons of failures; `processes`
tells whether an owner of a claim lives.
"""
