"""A first search before the page is served: the first search of a process takes longest, as modules are loaded in it."""

import threading
from typing import Any

from sfumato import samples
from sfumato.data.pictures import read
from sfumato.model.effects import device_of
from sfumato.models import Classifier, Detector, Embedder
from sfumato.models.questions import BOX, SIMILARITY
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
        tab_picture = TabPicture("sample", b"", inputs, size=picture.size)
        asks: dict[str, Any] = {"target": 0, "settings": {"steps": 1, "areas": [0.1]}}
        if isinstance(classifier, Detector):  # it may find nothing in the picture
            asks |= {"score": BOX, "target": None, "box": [0, 0, *picture.size]}
        if isinstance(classifier, Embedder):
            asks |= {"score": SIMILARITY, "to": "sample"}
        question = Question.parse(asks, classifier, {"sample": tab_picture})
        return question.work(classifier, tab_picture)(job)

    job = Job("", work)
    timer = threading.Timer(TIMEOUT, job.cancelled.set)
    timer.start()
    try:
        job.run()
    finally:
        timer.cancel()  # also after Ctrl-C, which must not wait for the timer
    return job.last_event
