"""A server on a free port of this computer, in a thread."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from tests.experiments.world import ColourEncoder, make_world
from tests.test_cli import fit_once
from vlmadapt.classifier import Classifier
from vlmadapt.serving.answer import Answers
from vlmadapt.serving.place import Place

with suppress(ImportError):  # the tests are skipped then
    from vlmadapt.serving import app


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="session")
def run(tmp_path_factory, world):
    """A saved tip-adapter-f of the colour encoder."""
    return fit_once(world, tmp_path_factory)


@pytest.fixture(scope="session")
def classifier(run):
    return Classifier.load(run, ColourEncoder())


@contextmanager
def serving(answers, host="127.0.0.1"):
    place = Place.take(host, 0)
    server = app.server_of(app.make_app(answers, place))
    thread = threading.Thread(target=app.run, args=(server, place))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield place
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def place(classifier):
    with serving(Answers(classifier)) as place:
        yield place


def ask(place, method="GET", path="/", body=None, host=None, **headers):
    """Status, headers and body of an answer; names of headers with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{place.port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def classify(place, body, path="/predict", **headers):
    """Status and JSON."""
    status, _, text = ask(place, "POST", path, body, **{"Content_Type": "application/octet-stream", **headers})
    return status, json.loads(text)
