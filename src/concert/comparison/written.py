"""A specification as its file has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from concert.errors import ConcertError

_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice; PyYAML takes the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
                value = self.construct_object(key)
                if value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"'{key.value}' is there twice", problem_mark=key.start_mark
                    )
                seen.add(value)
        return node


def read_yaml(file: Path) -> Any:
    """The content of a YAML file; ConcertError, with the line, where it is none."""
    try:
        # A loader of safe YAML.
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise ConcertError(f"cannot read {file}{line}: {said}") from None
    # A ValueError: a date that is none, or bytes that are no text.
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConcertError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
