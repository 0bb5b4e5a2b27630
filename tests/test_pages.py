"""Pages are short, their links lead somewhere, and a figure stands on one of them."""

import functools
import pathlib
import re

import pytest
from support import CONFIGS, ROOT

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
NAMES = [page.name for page in PAGES]
LIMITS = {"README.md": 900, "docs/performance.md": 1000}
"""In words."""

LINK = re.compile(r"\]\(([^()\s]+)\)")
# Text between backticks or in a block of code is no link, and no heading.
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
PLACE = re.compile(
    r"(?<![\w/])(?:docs|benchmarks|configs|launch|tests|noisy_student_jax)/[\w./]*\w"
)


@functools.cache
def text(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def links(page: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Returns the file and the anchor of each link that stays in the repository."""
    found = LINK.findall(CODE.sub("", text(page)))
    inside = [link for link in found if "://" not in link]
    parts = [link.partition("#") for link in inside]
    return [
        (page.parent / place if place else page, anchor) for place, _, anchor in parts
    ]


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    without_blocks = re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", without_blocks, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


def rows(page: pathlib.Path) -> list[list[str]]:
    """Returns the cells of the rows of a page's tables."""
    lines = [line for line in text(page).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def figures(words: str) -> set[str]:
    """Returns the numbers with a decimal point, with a minus where they have one."""
    return set(re.findall(r"-?\d+\.\d+", words.replace("−", "-")))


@pytest.mark.parametrize("page", LIMITS)
def test_a_page_for_newcomers_is_short(page):
    assert len(text(ROOT / page).split()) <= LIMITS[page]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_a_file_and_to_a_heading_in_it(page):
    for place, anchor in links(page):
        assert place.is_file(), place
        assert not anchor or anchor in anchors(place), f"{place.name}#{anchor}"


def test_the_readme_links_to_every_page_of_the_docs():
    assert {place.resolve() for place, _ in links(README)} >= set(DOCS)


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    for name in PLACE.findall(text(page)):
        # Files that a reader is going to write.
        assert "NAME" in name or (ROOT / name).exists(), name


def test_pages_that_the_code_names_exist():
    for folder in ("noisy_student_jax", "configs", "benchmarks", "launch"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".sh"}:
                for name in re.findall(r"docs/\w+\.md", text(path)):
                    assert (ROOT / name).is_file(), f"{path}: {name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_leaves_accuracies_to_its_page(path):
    docstring = text(path).split('"""')[1]
    assert not re.search(r"\d %", docstring)


def test_results_in_the_readme_are_those_of_the_pages_that_they_link_to():
    source, checked = "", 0
    for cells in rows(README):
        found = figures(" ".join(cells))
        if not found:
            continue
        # "…" continues the row above.
        if not cells[0].startswith("…"):
            source = text(ROOT / LINK.findall(cells[0])[0].partition("#")[0])
        assert found <= figures(source), cells[0]
        checked += 1
    assert checked >= 5
