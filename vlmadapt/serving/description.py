"""The endpoints in words that programs read: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from vlmadapt.pictures.read import FORMATS
from vlmadapt.version import __version__

MOST_TOP = 1000
MOST_VOTES = 50
MEDIA = ("application/octet-stream", *(f"image/{name}" for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff")))
PATHS = ("/", "/style.css", "/script.js", "/about", "/openapi.json", "/predict")
ERRORS = {
    400: "a parameter is wrong",
    401: "the token is missing or wrong",
    403: "the request comes from elsewhere",
    408: "the picture took too long to arrive",
    413: "the file is too large",
    415: "the body is no picture by its Content-Type",
    422: "the picture cannot be read, or has too many pixels",
    503: "too many pictures at once",
}


def openapi(class_names: list[str], asks_for_token: bool) -> dict[str, Any]:
    """What ``/openapi.json`` holds."""
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "vlmadapt serve",
            "version": __version__,
            "description": "One few-shot classifier of pictures.",
        },
        "paths": {
            "/predict": {"post": _predict(class_names)},
            "/about": {"get": _get("about", "What the classifier is", _about(), asks_for_token)},
        },
    }
    if asks_for_token:
        found["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        found["security"] = [{"token": []}]
    return found


def _predict(class_names: list[str]) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    formats = ", ".join(FORMATS)
    return {
        "operationId": "predict",
        "summary": "Classify one picture",
        "parameters": [
            _parameter("top", "classes to list", 1, MOST_TOP, 3),
            _parameter("votes", "support pictures to show as evidence", 0, MOST_VOTES, 5),
        ],
        "requestBody": {
            "required": True,
            "description": f"The bytes of one file ({formats}).",
            "content": {media: binary for media in MEDIA},
        },
        "responses": {
            "200": _json("Classes with calibrated probabilities", _prediction(class_names)),
            **_errors(*ERRORS),
        },
    }


def _get(name: str, summary: str, schema: dict[str, Any], asks_for_token: bool) -> dict[str, Any]:
    errors = _errors(400, 403, *((401,) if asks_for_token else ()))
    return {"operationId": name, "summary": summary, "responses": {"200": _json(summary, schema), **errors}}


def _parameter(name: str, text: str, least: int, most: int, default: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    schema = _object(error={"type": "string", "description": "one sentence"})
    return {str(status): _json(ERRORS[status], schema) for status in statuses}


def _object(**properties: Any) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _prediction(class_names: list[str]) -> dict[str, Any]:
    name = {"type": "string", "enum": list(dict.fromkeys(class_names))}
    share = {"type": "number", "minimum": 0, "maximum": 1.0001}  # of float32, rounded
    picture = {"type": ["string", "null"], "description": "a data: address of a small JPEG; null where it is gone"}
    return _object(
        classes=_list(_object(name=name, probability=share)),
        abstained={"type": "boolean", "description": "it may be of none of the classes"},
        class_votes=_list(_object(name=name, share=share)),
        votes=_list(_object(**{"class": name, "share": share, "picture": picture})),
    )


def _about() -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer"}
    return _object(
        name=text, adapter=text, encoder=text, shots=number, class_names=_list(text), explains={"type": "boolean"}
    )
