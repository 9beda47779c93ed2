"""A thread that does something every so often, and what rests on it: the lease of a run's claims."""

import threading

import pytest

from sfumato.runs.execution import execute
from sfumato.runs.periodic import periodically
from sfumato.runs.stores.store import Owner, StoreError

SOON = 1e-3
LONG = 3600.0
PATIENCE = 60.0
"""Seconds until a test gives up on a thread that never acts."""


def test_the_action_is_repeated_until_the_block_ends():
    calls, thrice = [], threading.Event()

    def act():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            thrice.set()

    with periodically(act, SOON, "named"):
        assert thrice.wait(PATIENCE)
    assert {thread.name for thread in calls} == {"named"}
    assert not calls[0].is_alive()


def test_the_first_call_may_come_sooner_than_the_others():
    calls, once = [], threading.Event()

    def act():
        calls.append(0)
        once.set()

    with periodically(act, LONG, "named", first=SOON):
        assert once.wait(PATIENCE)
    assert len(calls) == 1


def test_a_block_that_raises_ends_the_thread():
    with pytest.raises(KeyError), periodically(lambda: None, LONG, "named-once"):
        raise KeyError
    assert "named-once" not in {thread.name for thread in threading.enumerate()}


def test_a_lease_is_renewed_again_after_the_store_was_away(monkeypatch):
    """A database that restarts refuses one renewal; the claims must not run out for that."""
    monkeypatch.setattr(execute, "LEASE", SOON)
    renewed_later = threading.Event()

    class Store:
        renewals, releases = 0, 0

        def renew(self, owner):
            self.renewals += 1
            if self.renewals == 1:
                raise StoreError("the database restarts")
            renewed_later.set()

        def release(self, owner):
            self.releases += 1

    store = Store()
    with execute.renewed(store, Owner("machine", 1, "then")):
        assert renewed_later.wait(PATIENCE)
    assert store.releases == 1
