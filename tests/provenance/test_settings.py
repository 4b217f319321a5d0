import pytest

from vlmadapt.errors import InputError
from vlmadapt.provenance.settings import Method, parse_method, parse_settings, plain


def test_values_are_read_as_what_they_look_like():
    pairs = ["lr=1e-3", "epochs=20", "fusion=fixed", "hard-mining=False", "grad_clip=none", "search_c=[0.1, 10, 3]"]
    assert parse_settings(pairs) == {
        "lr": 1e-3,
        "epochs": 20,
        "fusion": "fixed",
        "hard_mining": False,
        "grad_clip": None,
        "search_c": [0.1, 10, 3],
    }


def test_a_method_is_an_adapter_and_settings():
    text = "xmadapter:fusion=fixed:epochs=2"
    assert parse_method(text) == Method(text, "xmadapter", {"fusion": "fixed", "epochs": 2})
    assert parse_method("taskres") == Method("taskres", "taskres", {})


@pytest.mark.parametrize("pair", ["epochs", "=3", ""])
def test_a_pair_without_a_key_or_a_value_is_named(pair):
    with pytest.raises(InputError, match="key=value"):
        parse_settings([pair])


def test_a_key_may_be_given_once():
    with pytest.raises(InputError, match="'lr' is given twice"):
        parse_settings(["lr=1", "lr=2"])


def test_plain_is_what_json_gives_back():
    assert plain({"a": (1, 2)}) == {"a": [1, 2]}


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, "{", "nan "])
def test_what_json_cannot_hold_stays_text(text):
    assert parse_settings([f"epochs={text}"])["epochs"] == text.strip()
