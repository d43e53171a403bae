"""The documentation that `mkdocs build --strict` has made, in the folder that BONSAI_SITE names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import bonsai_core

SITE = Path(os.environ["BONSAI_SITE"])
PAGES = {str(path.relative_to(SITE)): path.read_text(encoding="utf-8") for path in SITE.rglob("*.html")}


def test_it_asks_nothing_of_other_hosts() -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe|source|link\s+rel="(?:stylesheet|preconnect|preload|icon)")[^>]*(?:src|href)="(https?:)?//"""
    )
    styles = {str(path): path.read_text(encoding="utf-8") for path in SITE.rglob("*.css")}
    assert [path for path, html in PAGES.items() if loads.search(html)] == []
    assert [
        path for path, css in styles.items() if re.search(r"""(?:@import|url\()\s*['"]?(?:https?:)?//""", css)
    ] == []


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(html for path, html in PAGES.items() if path.startswith("reference"))
    missing = {name for name in bonsai_core.__all__ if f'id="bonsai_core.{name}"' not in reference}
    assert missing == set()


def test_every_setting_and_plugin_is_in_the_reference() -> None:
    settings, plugins = PAGES["reference/settings/index.html"], PAGES["reference/plugins/index.html"]
    for schema in (bonsai_core.RunConfig, bonsai_core.AdaptConfig, bonsai_core.EvalConfig, bonsai_core.BenchConfig):
        assert [name for name in schema.model_fields if f"<code>{name}</code>" not in settings] == []
    registry = bonsai_core.Registry()
    for kind in ("prior", "sampler", "metric", "estimator", "compensator", "exporter", "tracker"):
        assert [o.name for o in registry.offers(kind) if f'id="{kind}-{o.name}"' not in plugins] == []
    for kind in ("recipe", "adaptation"):
        assert [o.name for o in registry.offers(kind) if f"<code>{o.name}</code>" not in plugins] == []


def test_the_project_s_own_documents_and_pictures_are_there() -> None:
    assert {"CONTRIBUTING/index.html", "CHANGELOG/index.html", "benchmarks/index.html"} <= set(PAGES)
    assert (SITE / "benchmarks" / "results" / "speed.svg").is_file()
