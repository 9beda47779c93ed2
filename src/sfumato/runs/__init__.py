"""A method, models and data make a run: planned, done item by item, stored, and summed up in tables."""
