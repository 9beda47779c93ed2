"""What can be known of a plan before it runs: all its faults at once, each with the line to change.

Read `check` first; it calls `data` and `models`. `trial` does one item of each combination and throws it away.
"""
