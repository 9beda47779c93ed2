"""What a run came to, read from its store alone: no model, picture or data set is loaded.

Read `record` first (a run as its folder tells it), then `summary` (a line for each measure, with its interval),
`grid` (lines as tables), `leaders` (which methods lead), and `export` with `parquet` (Markdown, LaTeX, CSV, Parquet,
JSON).
"""
