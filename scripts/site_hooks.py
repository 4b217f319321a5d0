"""What mkdocs asks while it builds the documentation site: pages that are made rather than kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import method_pages
import site_links
from mkdocs.structure.files import File, Files

REPORT, REPORT_PAGE = "report/run.html", "report/index.md"


def on_config(config: Any) -> Any:
    """The pages of methods, and the report where one is given, join the navigation."""
    methods = next(section["Methods"] for section in config.nav if "Methods" in section)
    kinds = {"few-shot": "Few-shot classifiers", "generative": "Generative models"}
    named = {"few-shot": list(method_pages.ADAPTERS), "generative": list(method_pages.METHODS)}
    methods[1:] = [
        {kinds[kind]: [{name: method_pages.page_name(kind, name)} for name in names]} for kind, names in named.items()
    ]
    if report_file() is not None:
        tutorials = next(section["Tutorials"] for section in config.nav if "Tutorials" in section)
        tutorials.append({"A report": REPORT_PAGE})
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict):
                entry.update({title: as_page(name) for title, name in entry.items() if isinstance(name, str)})
    return config


def on_files(files: Files, config: Any) -> Files:
    for name, text in method_pages.pages():
        files.append(File.generated(config, name, content=text))
    for name, known in site_links.outside().items():
        where: dict[str, Any] = (
            {"content": known} if known is not None else {"abs_src_path": str(site_links.ROOT / name)}
        )
        files.append(File.generated(config, site_links.place(name), **where))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(notebook.content_string)["cells"]
        files.append(File.generated(config, as_page(notebook.src_uri), content=notebook_page(cells, notebook.name)))
    report = report_file()
    if report is not None:
        files.append(File.generated(config, REPORT, abs_src_path=str(report)))
        frame = f'<iframe src="{Path(REPORT).name}" title="report" style="width: 100%; height: 80vh"></iframe>'
        text = f"# A report\n\n[By itself]({Path(REPORT).name})\n\n{frame}\n"
        files.append(File.generated(config, REPORT_PAGE, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave docs/, or README.md, lead to where the site has the file."""
    places = {site_links.place(name): name for name in site_links.outside()}
    name = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return site_links.in_site(name, markdown)


def report_file() -> Path | None:
    """The HTML report that ``make site REPORT=...`` names."""
    given = os.environ.get("REPORT")
    if not given:
        return None
    path = Path(given).resolve()
    if not path.is_file():
        raise SystemExit(f"REPORT is {given}: no such file; give the report.html of a run, or leave it out.")
    return path


def as_page(name: str) -> str:
    return name.replace(".ipynb", "_notebook.md")


def notebook_page(cells: list[dict[str, Any]], name: str) -> str:
    """A notebook as Markdown: its text, its code and what the code printed when it was kept."""
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
        for output in cell["outputs"]:
            picture = output.get("data", {}).get("image/png")
            if picture:
                parts.append(f"![what the code drew](data:image/png;base64,{picture.strip()})")
    return "\n\n".join([*parts, f"[The notebook]({name}.ipynb)"])
