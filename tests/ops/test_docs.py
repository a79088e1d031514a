"""What the pages show is true: experiments parse, links lead somewhere, code compiles, the site builds strictly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raybench.config.experiment import Experiment, parse_experiment
from tests.support.commands import ROOT
from tests.support.pages import PAGES, blocks

README = ROOT / "README.md"
SMALLEST = {"name": "shown", "store": "s3://bucket/bench", "lines": ["*"], "models": ["padim"]}
SITE_PAGES = sorted((ROOT / "docs").glob("*.md"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def experiments(page: Path) -> list[str]:
    """The page's YAML blocks, each completed to an experiment where it shows some of the keys."""
    texts = []
    for block in blocks(page):
        if block.language in ("yaml", "yml"):
            shown = yaml.safe_load(block.text)
            texts.append(block.text if "store" in shown else yaml.safe_dump(SMALLEST | shown))
    return texts


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@every_page
def test_every_experiment_parses(page: Path) -> None:
    for text in experiments(page):
        parse_experiment(text, page.name)


def test_there_are_experiments_to_parse() -> None:
    assert sum(len(experiments(page)) for page in PAGES) >= 3


def test_the_example_uses_every_key_or_the_page_describes_it() -> None:
    """The long example is the page's own; keys that it leaves out are in the generated tables."""
    shown = yaml.safe_load(experiments(ROOT / "docs" / "experiment-file.md")[0])
    assert set(Experiment.model_fields) - set(shown) == {"held_out", "squashed_twins"}


@every_page
def test_every_relative_link_is_a_file(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]
    assert missing == []


@every_page
def test_python_compiles(page: Path) -> None:
    for number, block in enumerate(blocks(page)):
        if block.language == "python":
            compile(block.text, f"{page.name} block {number}", "exec")


def test_the_front_page_is_short_and_shows_one_picture() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert re.findall(r"!\[[^]]+\]\((.*?)\)", text) == ["docs/report.webp"]


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in SITE_PAGES} == set(re.findall(r"(\S+\.md)$", config, re.M))


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    loaded = r"<(?:script|img|iframe)[^>]*\ssrc=\"(https?://[^\"]*)|<link[^>]*\shref=\"(https?://[^\"]*)"
    assert {name: found for name, text in pages.items() if (found := re.findall(loaded, text))} == {}
    assert all(f"<code>{key}</code>" in pages["experiment-file.html"] for key in Experiment.model_fields)
    assert "raybench weights mirror" in pages["cli.html"]
    assert "generated:" not in "".join(pages.values())
