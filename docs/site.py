"""Lets the pages of the repository be a site, as they are: a hook of MkDocs.

Links are written for whoever reads the repository. A file that a page links to and that lies
outside of docs/ comes along under its own path, the README as the site's first page.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FIRST_PAGE = "README.md"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
"""The path of a link to another file."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside of docs/ and is linked to, from page to page."""
    unread = [FIRST_PAGE, *(in_repository(file.src_uri) for file in files.documentation_pages())]
    read = set()
    while unread:
        path = unread.pop()
        if path in read or not (ROOT / path).is_file():
            continue
        read.add(path)
        if files.get_file_from_path(in_site(path)) is None:
            source = str(ROOT / path)
            files.append(File.generated(config, in_site(path), abs_src_path=source))
        if path.endswith(".md"):
            unread += links(path)
    return files


def on_page_markdown(
    markdown: str,
    page: Page,
    config: MkDocsConfig,  # noqa: ARG001 - MkDocs hands it to every hook
    files: Files,  # noqa: ARG001 - the same
) -> str:
    """Turns links from file to file in the repository into those of the site."""
    here = in_repository(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = resolved(here, link[1])
        if not (ROOT / target).is_file():
            return link[0]
        return posixpath.relpath(in_site(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def links(page: str) -> list[str]:
    """What a page of the repository links to."""
    return [resolved(page, target) for target in LINK.findall((ROOT / page).read_text())]


def resolved(page: str, target: str) -> str:
    """A link's target, from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def in_site(path: str) -> str:
    """Where a file of the repository is in the site's sources."""
    return path.removeprefix("docs/")


def in_repository(uri: str) -> str:
    """Where a file of the site's sources is in the repository."""
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri
