"""The explorer: a local page on which one looks at what a network needs to see. Nothing on it asks another machine."""
