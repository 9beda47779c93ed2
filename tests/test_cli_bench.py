"""`sfumato bench` as one types it: what it says, what it writes, how it ends."""


from test_runs import PLAN, subject  # noqa: F401  # a fixture

