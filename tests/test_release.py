"""What a release is asked before it is published: agreement of its names, and what its files hold."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import release

from vlmadapt import version

ROOT = Path(__file__).parent.parent


def test_the_changelog_begins_with_this_version() -> None:
    release.check(version.__version__, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), None)


@pytest.mark.parametrize(
    ("changelog", "tag", "problem"),
    [
        ("# Changelog\n", None, r"no heading such as"),
        ("## 0.9.0 (unreleased)\n", None, r"begins with 0\.9\.0, vlmadapt/version\.py says 1\.0\.0"),
        ("## 1.0.0 (2026-01-31)\n", "1.0.0", r"the tag is '1\.0\.0'.*tag v1\.0\.0"),
        ("## 1.0.0 (unreleased)\n", "v1.0.0", r"is unreleased: write the day"),
    ],
)
def test_what_disagrees_is_named(changelog: str, tag: str | None, problem: str) -> None:
    with pytest.raises(release.NotReady, match=problem):
        release.check("1.0.0", changelog, tag)


def test_a_release_is_agreed_on() -> None:
    release.check("1.0.0", "# Changelog\n\n## 1.0.0 (2026-01-31)\n\n## 0.9.0 (2025-01-31)\n", "v1.0.0")


def made(folder: Path, wheel: str, packed: tuple[str, ...], given: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        for name in packed:
            archive.writestr(name, "")
    with tarfile.open(folder / "vlmadapt-1.0.0.tar.gz", "w:gz") as source:
        for name in given:
            source.addfile(tarfile.TarInfo(f"vlmadapt-1.0.0/{name}"), io.BytesIO())
    return folder


WHEEL = "vlmadapt-1.0.0-cp311-abi3-linux_x86_64.whl"


def test_whole_files_are_taken(tmp_path: Path) -> None:
    folder = made(tmp_path, WHEEL, (*release.IN_WHEEL, "vlmadapt-1.0.0.dist-info/METADATA"), release.IN_SOURCE)
    assert release.contents(folder) == tmp_path / WHEEL


@pytest.mark.parametrize(
    ("wheel", "packed", "given", "problem"),
    [
        ("vlmadapt-1.0.0-cp311-cp311-linux_x86_64.whl", release.IN_WHEEL, release.IN_SOURCE, r"lacks cp311-abi3"),
        (WHEEL, release.IN_WHEEL[1:], release.IN_SOURCE, r"lacks vlmadapt/_cpu\.abi3\.so"),
        (WHEEL, release.IN_WHEEL, release.IN_SOURCE[1:], r"tar\.gz lacks csrc/sources\.json"),
        (WHEEL, (*release.IN_WHEEL, "tests/modes.py"), release.IN_SOURCE, r"tests/modes\.py beside the package"),
    ],
)
def test_what_is_missing_or_too_much_is_named(
    tmp_path: Path, wheel: str, packed: tuple[str, ...], given: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(release.NotReady, match=problem):
        release.contents(made(tmp_path, wheel, packed, given))


def test_one_of_each_is_meant(tmp_path: Path) -> None:
    with pytest.raises(release.NotReady, match=r"0 wheels and 0 sources"):
        release.contents(tmp_path)
