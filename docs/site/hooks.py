"""What mkdocs adds to the pages in docs/: those made from the code, and the project's own documents.

The pages link to files of the repository as they are there (`../benchmarks/README.md`), so that they can also be read
without the site. Here such links are made to point to the site's copy.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PICTURES = "benchmarks/results"
LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the project's documents and the pictures of measurements."""
    from reference import plugins_page, settings_page

    pages = {"reference/settings.md": settings_page(), "reference/plugins.md": plugins_page()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    pictures = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / PICTURES).iterdir()) if path.is_file()]
    for path in (*DOCUMENTS, *pictures):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's copies of the repository's files."""
    path = PurePosixPath(page.file.src_uri)
    # Where the file is in the repository: what is not the project's own document is in docs/.
    folder = path.parent if str(path) in DOCUMENTS else PurePosixPath("docs") / path.parent

    def pointed(match: re.Match[str]) -> str:
        target = _normal(folder / match["path"])
        copy = target.removeprefix("docs/")
        if files.get_file_from_path(copy) is None:
            return match[0]  # mkdocs warns
        up = "../" * len(path.parent.parts)
        return f"]({up}{copy}{match['anchor'] or ''})"

    return LINK.sub(pointed, markdown)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def on_config(config: MkDocsConfig, **_: Any) -> None:
    """Let hooks import the generators beside this file."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
