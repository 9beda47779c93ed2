"""A search before anybody asks: a process's first one takes longest, as much is loaded and laid out then."""

import threading

from sfumato import samples
from sfumato.data.pictures import read
from sfumato.model.effects import device_of
from sfumato.models import Classifier
from sfumato.web.desk import Event, Job
from sfumato.web.explaining import Asked
from sfumato.web.tabs import Shown

LONGEST = 10.0
"""Seconds after which it is given up, with the network's next answer: a large network is not to keep the page waiting."""


def rehearse(classifier: Classifier) -> Event:
    """One step of what the page asks first, on a sample; what came of it."""

    def work(job: Job) -> Event:
        picture = read(samples.paths()[0])
        shown = Shown("", picture, classifier.prepare(picture)[None].to(device_of(classifier.net)))
        return Asked.of({"target": 0, "settings": {"steps": 1}}, classifier).work(classifier, shown)(job)

    job = Job("", work)
    limit = threading.Timer(LONGEST, job.unwanted.set)
    limit.start()
    try:
        job.run()
    finally:
        limit.cancel()  # also when it is broken off, which is not to wait for the timer
    return job.told
