"""The endpoint against its own OpenAPI description, by schemathesis: no fault, no answer that it does not describe."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from tests.serving.conftest import ask

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from vlmadapt.serving.description import MEDIA  # noqa: E402


def png(size, colour):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


SIDES = st.integers(1, 40)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
for media in MEDIA:
    schemathesis.openapi.media_type(media, st.builds(png, st.tuples(SIDES, SIDES), COLOURS))


@pytest.mark.parametrize("operation", ["predict", "about"])
def test_whatever_is_asked_is_answered_as_described(place, operation):
    schema = schemathesis.openapi.from_dict(json.loads(ask(place, path="/openapi.json")[2]))
    found = next(
        each.ok() for each in schema.get_all_operations() if each.ok().definition.raw["operationId"] == operation
    )
    base = f"http://127.0.0.1:{place.port}"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=found.as_strategy() | found.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def fuzz(case):
        case.call_and_validate(base_url=base)

    fuzz()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(body=st.binary(max_size=400), kind=st.sampled_from(MEDIA))
def test_any_bytes_are_answered_with_a_sentence(place, body, kind):
    status, _, text = ask(place, "POST", "/predict", body, Content_Type=kind)
    assert status in (200, 422) and (status == 200 or json.loads(text)["error"].startswith("the picture"))
