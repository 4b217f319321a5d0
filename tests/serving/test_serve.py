"""The server: what it says, whom it answers, what it refuses, and how it ends."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from PIL import Image

from tests.experiments.world import ColourEncoder
from tests.serving.conftest import ask, classify, serving
from tests.test_cli import call
from vlmadapt.backbones.given import GivenEncoder
from vlmadapt.classifier import Classifier, Support
from vlmadapt.errors import InputError
from vlmadapt.serving.answer import MOST_PIXELS, Answers
from vlmadapt.serving.place import Place

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from vlmadapt.serving import app


@pytest.fixture(scope="session")
def picture(world):
    return world / "test" / "apple" / "0.png"


def test_it_says_what_predict_says(place, classifier, picture):
    status, found = classify(place, picture.read_bytes(), "/predict?top=4&votes=3")
    expected = classifier.predict([picture], top=4, votes=3)[0]
    assert status == 200 and not found["abstained"]
    assert [(each["name"], each["probability"]) for each in found["classes"]] == list(expected.classes)
    assert [(each["class"], each["share"]) for each in found["votes"]] == [
        (vote.class_name, vote.share) for vote in expected.votes
    ]
    assert [(each["name"], each["share"]) for each in found["class_votes"]] == list(expected.class_votes)
    for vote in found["votes"]:
        head, _, data = vote["picture"].partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as small:
            assert small.format == "JPEG" and max(small.size) <= 96


def test_the_page_and_what_it_needs(place):
    for path, kind in {"/": "text/html", "/style.css": "text/css", "/script.js": "text/javascript"}.items():
        status, headers, body = ask(place, path=path)
        assert status == 200 and headers["content-type"].startswith(kind) and body
        assert b"http://" not in body and b"https://" not in body
    about = json.loads(ask(place, path="/about")[2])
    assert about["class_names"] == ["apple", "fish", "leaf", "sun"] and about["adapter"] == "tip-adapter-f"


def test_every_answer_has_the_headers_that_keep_others_out(place):
    for status, headers, _ in (ask(place), ask(place, path="/nothing"), ask(place, host="evil.example:80")):
        policy = headers["content-security-policy"]
        assert status in (200, 403, 404) and policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.evil.example:{}",
        "[::1",
        "",
        "8.8.8.8:{}",
    ],
)
def test_other_names_than_its_own_are_refused(place, host):
    assert ask(place, host=host.format(place.port) or " ")[0] == 403


@pytest.mark.parametrize("host", ["localhost:{}", "LOCALHOST:{}", "127.0.0.1:{}", "[::1]:{}"])
def test_its_own_names_are_known(place, host):
    assert ask(place, host=host.format(place.port))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{}"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_pages_are_refused(place, picture, headers):
    headers = {name: value.format(place.port) for name, value in headers.items()}
    status, found = classify(place, picture.read_bytes(), **headers)
    assert status == 403 and "comes from another page" in found["error"]


def test_its_own_page_is_answered(place, picture):
    assert classify(place, picture.read_bytes(), Origin=f"http://127.0.0.1:{place.port}")[0] == 200


def test_another_host_asks_for_the_token(classifier, picture):
    with serving(Answers(classifier), "0.0.0.0") as place:
        assert place.token and place.url == f"http://127.0.0.1:{place.port}/?token={place.token}"
        data = picture.read_bytes()
        for path, headers in {
            "/predict": {},
            "/predict?token=": {},
            f"/predict?token={place.token}x": {},
            "/predict?top=1": {"Authorization": "Bearer wrong"},
        }.items():
            assert classify(place, data, path, **headers) == (
                401,
                {"error": "the token is missing or wrong: open the address printed."},
            )
        assert ask(place)[0] == 401 and ask(place, path="/openapi.json")[0] == 401
        assert ask(place, path=f"/?token={place.token}")[0] == 200 and ask(place, path="/script.js")[0] == 200
        assert classify(place, data, f"/predict?token={place.token}")[0] == 200
        assert classify(place, data, Authorization=f"Bearer {place.token}")[0] == 200
        assert ask(place, path=f"/?token={place.token}", host=f"evil.example:{place.port}")[0] == 403
        described = json.loads(ask(place, path=f"/openapi.json?token={place.token}")[2])
        assert described["security"] == [{"token": []}]


def bomb():
    """A PNG of 40,000 x 40,000 pixels in some bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def truncated():
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    return stream.getvalue()[:2000]


BAD = {
    "nothing": (b"", "the picture is an empty file"),
    "text": (b"hello", "the picture"),
    "a bomb": (bomb(), "the picture"),
    "truncated": (truncated(), "the picture"),
    "a pickle": (b"\x80\x04cos\nsystem\n.", "the picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "the picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_one_sentence_without_a_path(place, name, run, world):
    body, beginning = BAD[name]
    status, found = classify(place, body)
    assert status == 422 and found["error"].startswith(beginning)
    assert (
        "/" not in found["error"].replace("jpeg/", "")
        and "\n" not in found["error"]
        and "object at" not in found["error"]
    )


def test_too_many_pixels_are_refused_before_they_are_decoded(place):
    stream = io.BytesIO()
    Image.new("1", (10_000, MOST_PIXELS // 10_000 + 1)).save(stream, "PNG")
    status, found = classify(place, stream.getvalue())
    assert status == 422 and "10000 x 5001 pixels: give one of at most 50,000,000" in found["error"]


def test_too_many_bytes_are_refused_by_their_announcement_and_as_they_come(place, monkeypatch):
    told = {"Content_Length": str(app.MOST_BYTES + 1)}
    status, _, body = ask(place, "POST", "/predict", b"", Content_Type="image/png", **told)
    assert status == 413 and json.loads(body)["error"] == "the file has more than 20 MiB: send a smaller one."
    monkeypatch.setattr(app, "MOST_BYTES", 1 << 20)
    with socket.create_connection(("127.0.0.1", place.port), timeout=20) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\nContent-Type: image/png\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(40):
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        except OSError:
            pass  # it has hung up
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_picture_that_does_not_come_is_given_up(place, monkeypatch):
    monkeypatch.setattr(app, "SECONDS", 0.3)
    status, _, body = ask(place, "POST", "/predict", b"", Content_Type="image/png", Content_Length="10")
    assert status == 408 and "did not arrive within 0.3 seconds" in json.loads(body)["error"]


WRONG = ("top=0", "top=x", "top=-1", "top=1001", "top=1&top=2", "votes=51", "votes=", "color=red", "top=\uff11")


@pytest.mark.parametrize("query", WRONG)
def test_wrong_parameters_are_one_sentence(place, picture, query):
    status, found = classify(place, picture.read_bytes(), f"/predict?{quote(query, safe='=&')}")
    assert status == 400 and found["error"].endswith(".")


def test_other_types_methods_and_addresses(place, picture):
    assert classify(place, picture.read_bytes(), Content_Type="text/plain")[0] == 415
    status, headers, _ = ask(place, path="/predict")
    assert status == 405 and "POST" in headers["allow"]
    assert ask(place, path="/../../etc/passwd")[0] == 404 and ask(place, path="/page/index.html")[0] == 404


class Slow(Answers):
    """As :class:`Answers`, once it may go on; ``entered`` counts the pictures that wait for that."""

    def __init__(self, classifier):
        super().__init__(classifier)
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()

    def predict(self, data, top=3, votes=5):
        self.entered.release()
        assert self.go_on.wait(60)
        return super().predict(data, top, votes)


def test_more_than_a_few_at_once_are_sent_away(classifier, picture):
    answers, data = Slow(classifier), picture.read_bytes()
    with serving(answers) as place, ThreadPoolExecutor(app.MOST_WAITING) as pool:
        first = [pool.submit(classify, place, data) for _ in range(app.MOST_WAITING)]
        try:
            assert all(answers.entered.acquire(timeout=20) for _ in first)
            assert classify(place, data) == (503, {"error": "too many pictures at once: try again in a moment."})
        finally:
            answers.go_on.set()
        assert {each.result()[0] for each in first} == {200}
        assert classify(place, data)[0] == 200


def test_a_fault_of_its_own_tells_nothing(classifier, picture, monkeypatch):
    answers = Answers(classifier)

    def fault(*_given):
        raise RuntimeError("/etc/secret")

    monkeypatch.setattr(answers, "predict", fault)
    with serving(answers) as place:
        status, headers, body = ask(place, "POST", "/predict", picture.read_bytes(), Content_Type="image/png")
    assert status == 500 and b"secret" not in body and "content-security-policy" in headers


def test_support_pictures_that_are_gone_are_said_to_be(run, picture, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "thumbnails.safetensors").unlink()
    told = json.loads((copied / "run.json").read_text())
    classifier = Classifier.load(run, ColourEncoder())
    classifier.thumbnails = None
    classifier.support = tuple(Support(each.name, tmp_path / each.name, each.label) for each in classifier.support)
    found = Answers(classifier).predict(picture.read_bytes())
    assert found["votes"] and all(vote["picture"] is None for vote in found["votes"])
    assert told["data"]["root"] not in json.dumps(found)


def test_a_classifier_of_features_alone_is_refused(classifier):
    bare = Classifier(classifier.adapter, GivenEncoder("colours", "x", 16, 20.0), classifier.run)
    with pytest.raises(InputError, match="was fitted on features of 'colours' and cannot see pictures"):
        Answers(bare)


def test_a_taken_port_is_one_sentence(place, run):
    with pytest.raises(InputError, match=f"port is {place.port}, which another program on 127.0.0.1 listens at: give"):
        Place.take("127.0.0.1", place.port)
    result = call("serve", run, "--port", place.port, code=2)
    assert result.stderr.count("\n") == 1 and "another program" in result.stderr


@pytest.mark.parametrize("host", ["no.such.host.invalid", "8.8.8.8", "a b"])
def test_an_address_of_somebody_else_is_one_sentence(host):
    with pytest.raises(InputError, match="host is"):
        Place.take(host, 0)


def test_a_port_out_of_range_is_one_sentence():
    with pytest.raises(InputError, match="port is 70000: give one from 1 to 65535"):
        Place.take("127.0.0.1", 70_000)


# A program that was started in the background of a shell ignores Ctrl-C.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.experiments.world import ColourEncoder
from vlmadapt import backbones
backbones.load_encoder = lambda name, **_: ColourEncoder()
from vlmadapt.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_as_other_commands_do(run, picture, number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", str(run), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", address)[1])  # type: ignore[index]

        class At:
            pass

        At.port = port  # type: ignore[attr-defined]
        assert classify(At, picture.read_bytes())[0] == 200
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (128 + number, "Interrupted.\n")
