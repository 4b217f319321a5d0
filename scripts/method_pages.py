"""A page a method of the documentation site, from docstrings and the help of settings.

``python scripts/method_pages.py FOLDER`` writes them; ``make site`` takes them from here and keeps no copy.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

from vlmadapt.adapters import ADAPTERS, Adapter
from vlmadapt.config import AdapterConfig
from vlmadapt.generative.methods.registry import METHODS, GenerativeMethod

INDEX = "methods/index.md"
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def pages() -> Iterator[tuple[str, str]]:
    """``(path in the site, Markdown)`` of every method, and first of the page that lists them."""
    few_shot = {name: few_shot_page(name, adapter) for name, adapter in ADAPTERS.items()}
    generative = {name: generative_page(name, method) for name, method in METHODS.items()}
    listed = {name: first_sentence(adapter_text(adapter)) for name, adapter in ADAPTERS.items()}
    told = {name: method.description for name, method in METHODS.items()}
    yield (
        INDEX,
        "\n".join(
            [
                "# Methods",
                "",
                "Made from the docstrings and settings of the code; what each is good for: [adapters](../adapters.md), "
                "[tuning](../tuning.md).",
                "",
                "## Few-shot classifiers",
                "",
                *listing("few-shot", listed),
                "## Generative models",
                "",
                *listing("generative", told),
            ]
        ),
    )
    for kind, made in (("few-shot", few_shot), ("generative", generative)):
        for name, text in made.items():
            yield page_name(kind, name), text


def page_name(kind: str, name: str) -> str:
    """Where the page of a method lies; LP++ has no plus in its address."""
    return f"methods/{kind}/{name.replace('+', 'p')}.md"


def listing(kind: str, sentences: dict[str, str]) -> list[str]:
    here = "methods/"
    rows = [f"| [`{name}`]({page_name(kind, name).removeprefix(here)}) | {said} |" for name, said in sentences.items()]
    return ["| method | what it is |", "|:-------|:-----------|", *rows, ""]


def few_shot_page(name: str, adapter: type[Adapter]) -> str:
    abilities = [
        "needs class text" if adapter.needs_text else "does without class text",
        "says which support pictures decided" if adapter.explains else "",
        "takes more samples and classes without a fit" if adapter.grows else "",
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            prose(adapter_text(adapter)),
            "",
            f"It {' and '.join(filter(None, abilities))}.",
            "",
            f"    vlmadapt fit pictures/ --adapter {name} --shots 8 --out runs/mine",
            "",
            f"## {adapter.__name__}",
            "",
            prose(adapter.__doc__ or ""),
            "",
            *settings(adapter.config_class, {}),
            "",
            "All methods side by side: [adapters](../../adapters.md).",
        ]
    )


def generative_page(name: str, method: GenerativeMethod) -> str:
    return "\n".join(
        [
            f"# {name}",
            "",
            f"For generative models: {method.description}. Peak learning rate where none is given: {method.lr:g}.",
            "",
            f"    vlmadapt tune --task vqa --method {name} --out runs/tuned",
            "",
            prose(method.config.__doc__ or ""),
            "",
            *settings(method.config, method.defaults),
            "",
            "All methods side by side: [tuning](../../tuning.md), [p-adapter](../../p_adapter.md).",
        ]
    )


def settings(config: type[AdapterConfig], changed: Any) -> list[str]:
    """The table of a configuration's fields; ``changed``: what the method sets in place of the class's defaults."""
    rows = [f"| `{name}` | `{changed.get(name, value)}` | {cell(said)} |" for name, value, said in config.describe()]
    head = ["| setting | default | meaning |", "|:--------|:--------|:--------|"]
    return [f"## Settings ({config.__name__})", "", *(head + rows if rows else ["None."])]


def adapter_text(adapter: type[Adapter]) -> str:
    """Of the file: it has formula and source; of a file of several methods all share it."""
    return sys.modules[adapter.__module__].__doc__ or ""


def first_sentence(text: str) -> str:
    return cell(re.sub(r"\s+", " ", inspect.cleandoc(text).split("\n\n")[0]))


def cell(text: str) -> str:
    return ROLE.sub(r"`\1`", text).replace("``", "`").replace("|", "\\|")


def prose(text: str) -> str:
    """A docstring as Markdown: roles and double backticks as code, definition lists as code, formulas as they are."""
    return "\n\n".join(paragraphs(inspect.cleandoc(text).split("\n\n")))


def paragraphs(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if all(line.startswith("    ") for line in part.splitlines()):
            yield indent(dedent(part), "    ")
        elif re.search(r"^ {4}", part, re.MULTILINE):
            yield indent(part, "    ")
        else:
            yield ROLE.sub(r"`\1`", part).replace("``", "`")


def main() -> None:
    folder = Path(sys.argv[1])
    for name, text in pages():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
