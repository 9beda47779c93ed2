"""A first search before the page is served: the first search of a process takes longest, as modules are loaded in it."""

import threading

from sfumato import samples
from sfumato.data.pictures import read
from sfumato.model.effects import device_of
from sfumato.models import Classifier
from sfumato.web.explaining import Question
from sfumato.web.jobs import Event, Job
from sfumato.web.tabs import TabPicture

TIMEOUT = 10.0
"""Seconds after which the search is cancelled, at the network's next forward pass, so that a large network does not delay the
page."""


def warm_up(classifier: Classifier) -> Event:
    """Do one step of the page's default search on a sample picture; returns the last event."""

    def work(job: Job) -> Event:
        picture = read(samples.paths()[0])
        inputs = classifier.prepare(picture)[None].to(device_of(classifier.net))
        question = Question.parse({"target": 0, "settings": {"steps": 1, "areas": [0.1]}}, classifier)
        return question.work(classifier, TabPicture("", b"", inputs))(job)

    job = Job("", work)
    timer = threading.Timer(TIMEOUT, job.cancelled.set)
    timer.start()
    try:
        job.run()
    finally:
        timer.cancel()  # also after Ctrl-C, which must not wait for the timer
    return job.last_event
