"""YAML as Muster writes it: what is text here is text for every reader.

Owns quoting. PyYAML leaves ``1e3`` and ``0o17`` bare because it would read them as text; kubectl, and our
own loader, would not. It never writes a file.
"""

from __future__ import annotations

import yaml

from muster_core.manifest.load import reads_as_text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some reader would take for something else; writes no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if reads_as_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else style)


_Dumper.add_representer(str, _text)


def dump_yaml(value: object) -> str:
    """One document, keys in their order, long lines kept."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True))
