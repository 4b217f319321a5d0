"""The documentation site: its navigation, its links, the pages of methods, a strict build where mkdocs is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import method_pages
import pytest
import site_links

yaml = pytest.importorskip("yaml", reason="PyYAML reads mkdocs.yml")

ROOT = site_links.ROOT
DOCS = ROOT / "docs"
MADE = {"index.md", method_pages.INDEX}


def leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for child in entry.values() if isinstance(entry, dict) else entry:
        yield from leaves(child)


def test_navigation_names_every_page_once():
    named = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = {path.relative_to(DOCS).as_posix() for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)}
    assert sorted(named) == sorted(there | MADE)


def test_a_page_a_method():
    pages = dict(method_pages.pages())
    assert len(pages) == 1 + len(method_pages.ADAPTERS) + len(method_pages.METHODS)
    assert all(text.startswith("# ") for text in pages.values())
    for name, adapter in method_pages.ADAPTERS.items():
        page = pages[method_pages.page_name("few-shot", name)]
        assert all(f"| `{setting}` |" in page for setting, _, _ in adapter.config_class.describe())
    fixed = pages[method_pages.page_name("generative", "p-adapter-p2")]
    assert "| `p` | `2.0` |" in fixed and "| `learn_p` | `False` |" in fixed


def test_links_that_leave_docs_lead_to_copies():
    assert site_links.in_site("docs/report.md", "[a](../SECURITY.md)") == "[a](project/SECURITY.md)"
    assert site_links.in_site("README.md", "[a](docs/data.md#rules)") == "[a](data.md#rules)"
    assert site_links.in_site("docs/tutorials/x.md", "[a](../../README.md)") == "[a](../index.md)"
    assert site_links.in_site("docs/data.md", "[a](https://example.org/x)") == "[a](https://example.org/x)"
    assert {"README.md", "SECURITY.md", "vlmadapt/backbones/EMBEDDED.md"} <= set(site_links.outside())


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs", reason="make site installs mkdocs")
    pytest.importorskip("material", reason="make site installs mkdocs-material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    known = os.environ | {"NO_MKDOCS_2_WARNING": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True)


def test_it_builds_without_a_warning_and_asks_no_network(tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<title>of a run</title>", encoding="utf-8")
    built = build(tmp_path / "site", REPORT=str(report))
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    for path, text in pages.items():
        fetched = re.findall(
            r"<(?:script|img|iframe|link|source)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'>\s]+)", text
        )
        assert not fetched, (path, fetched)
    assert (tmp_path / "site/report/run.html").read_text(encoding="utf-8") == report.read_text(encoding="utf-8")
    assert "report/index.html" in pages[tmp_path / "site/index.html"]
    assert 'src="run.html"' in pages[tmp_path / "site/report/index.html"]
    assert "accuracy" in pages[tmp_path / "site/notebooks/few_shot_notebook.html"]


def test_a_report_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="make site installs it")
    import site_hooks

    monkeypatch.setenv("REPORT", str(tmp_path / "none.html"))
    with pytest.raises(SystemExit, match=r"^REPORT is .*none\.html: no such file; give"):
        site_hooks.report_file()
