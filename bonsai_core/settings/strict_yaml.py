"""YAML as recipes use it: a small tree of names and plain values, each name once."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 20  # levels of nesting


def parse(text: str) -> Any:
    """The values in a text.

    Raises:
        ValueError: it is not YAML, or has what no recipe needs and what could do harm: aliases (a few lines expand to
            gigabytes), tags, names that are not text or are there twice, nesting beyond `DEEPEST`, impossible numbers
            and dates. The message says what, and where.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from None


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # of types-PyYAML
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias (*) is not read: write the value itself", event.start_mark)
        if getattr(event, "tag", None):
            raise _refused("a tag (!) is not read: write the plain value", event.start_mark)
        if self.depth == DEEPEST:
            raise _refused(f"this is nested more than {DEEPEST} levels deep", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != self.DEFAULT_SCALAR_TAG:
                raise _refused("this name is not text: put it in quotes", key.start_mark)
            if key.value in seen:
                raise _refused(f"{key.value[:80]!r} is there twice: keep one of them", key.start_mark)
            seen.add(key.value)
        return node


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
