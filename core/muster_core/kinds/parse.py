"""From a document to a typed kind, with errors that name the line, the field, and what is allowed.

Owns the translation of the decoder's complaints. It never reads a file and never guesses a value.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from muster_core.addresses import is_http
from muster_core.durations import DURATION, parse_duration
from muster_core.errors import ValidationError
from muster_core.kinds.base import API_VERSION, NAME, OBJECT_NAME, PERCENT, PERCENT_OR_NONE, Selector
from muster_core.kinds.model import Bundle, Cluster, Fleet, FleetSecret, Render, Source
from muster_core.kinds.plans import RolloutPlan, Wave
from muster_core.manifest.load import Document, Path
from muster_core.rollout.flaws import flaws
from muster_core.windows import parse_window

K = TypeVar("K")

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


class KindError(ValidationError):
    """A document that is no valid kind: ``file:line: path: what, allowed`` (SURFACE)."""

    def __init__(self, document: Document, path: Path, what: str) -> None:
        self.file, self.line, self.path, self.what = (
            document.file,
            document.line_of(path),
            render_path(path),
            what,
        )
        where = f"{self.path}: " if self.path else ""
        super().__init__("V002", f"{self.file}:{self.line}: {where}{what}", object=self.file)


def render_path(path: Path) -> str:
    """``spec.targets[0].selector``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse(document: Document, expected: type[K]) -> K:
    """The document as ``expected``; :class:`KindError` otherwise."""
    value = document.value
    if not isinstance(value, dict):
        raise KindError(document, (), "a mapping with apiVersion and kind is expected")
    name = expected.__name__
    if value.get("kind") != name:
        raise KindError(
            document, ("kind",), f"{value.get('kind')!r} is not the kind expected here; write {name}"
        )
    if value.get("apiVersion") != API_VERSION:
        raise KindError(
            document, ("apiVersion",), f"{value.get('apiVersion')!r} is not known; write {API_VERSION}"
        )
    try:
        parsed = msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        raise _explained(document, expected, str(error)) from error
    _check(document, parsed)
    return parsed


def _explained(document: Document, expected: Any, text: str) -> KindError:
    found = _WHERE.match(text)
    what, where = (found["what"], found["path"] or "") if found else (text, "")
    path: Path = tuple(name or int(index or 0) for name, index in _STEP.findall(where.removeprefix("$")))
    path = _existing(document.value, path)
    unknown = _UNKNOWN.match(what)
    if unknown:
        fields = _fields(expected, path)
        close = difflib.get_close_matches(unknown[1], fields, 1, 0.6)
        what = "unknown field" + (
            f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(sorted(fields))}"
        )
        path = (*path, unknown[1])
    else:
        what = _allowed(expected, path, what)
    return KindError(document, path, what)


_SHAPES = {
    DURATION: "write a duration like 30s, 10m or 1h30m",
    PERCENT_OR_NONE: "write a percentage like 25%",
    PERCENT: "write a percentage from 1% to 100%",
    NAME: "write a name of lower-case letters, digits and '-', at most 63",
    OBJECT_NAME: "write a name of lower-case letters, digits, '-' and '.'",
}
_SHAPE = re.compile(r"Expected `str` matching regex '(.*)'", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value '?(.*?)'?$", re.DOTALL)


def _allowed(expected: Any, path: Path, what: str) -> str:
    """The decoder's words, with what is allowed instead."""
    shape, value = _SHAPE.match(what), _ENUM.match(what)
    if shape:
        pattern = shape[1].replace("\\\\", "\\")  # the decoder writes it with escapes
        return f"not the right form; {_SHAPES.get(pattern, pattern)}"
    if value:
        return f"{value[1][:60]!r} is not known; allowed: {', '.join(_choices(_model_at(expected, path)))}"
    return what[:1].lower() + what[1:].replace("`", "")


def _choices(model: Any) -> list[str]:
    """The values of a ``Literal``, wherever it stands inside a union."""
    if get_origin(model) is Literal:
        return [str(choice) for choice in get_args(model)]
    return [choice for part in get_args(model) for choice in _choices(part)]


def _existing(value: Any, path: Path) -> Path:
    """The decoder writes ``[...]`` for a mapping's key; only steps that exist are kept."""
    kept: list[str | int] = []
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
        kept.append(step)
    return tuple(kept)


def _fields(model: Any, path: Path) -> list[str]:
    """The field names that the model allows at ``path``."""
    model = _model_at(model, path)
    return [field.encode_name for field in msgspec.structs.fields(model)] if _is_struct(model) else []


def _model_at(model: Any, path: Path) -> Any:
    for step in path:
        model = _inner(model, step)
    return model


def _inner(model: Any, step: str | int) -> Any:
    if _is_struct(model):
        hints = get_type_hints(model)
        for field in msgspec.structs.fields(model):
            if field.encode_name == step:
                return _unwrapped(hints[field.name])
        return None
    arguments = get_args(model)
    return _unwrapped(arguments[-1]) if arguments else None


def _unwrapped(model: Any) -> Any:
    if get_origin(model) in (list, dict) or _is_struct(model):
        return model
    return next((arg for arg in get_args(model) if _is_struct(arg) or get_origin(arg) in (list, dict)), model)


def _is_struct(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, msgspec.Struct)


def _check(document: Document, parsed: object) -> None:
    """What a schema cannot say."""
    if isinstance(parsed, Bundle):
        render = parsed.spec.render
        if render.manifests is not None and render.kustomize is not None:
            raise KindError(document, ("spec", "render"), "exactly one of manifests and kustomize")
        for index, target in enumerate(parsed.spec.targets):
            _check_selector(document, target.selector, ("spec", "targets", index, "selector"))
        _check_removal(document, parsed)
    elif isinstance(parsed, Cluster):
        site = parsed.spec.site
        if site is not None:
            cron, duration = (site.window.cron, site.window.duration) if site.window else (ALWAYS, "1h")
            check_window(document, cron, duration, site.time_zone, ("spec", "site"))
    elif isinstance(parsed, FleetSecret):
        _check_selector(document, parsed.spec.selector, ("spec", "selector"))
    elif isinstance(parsed, Fleet):
        for name, site_class in parsed.spec.site_classes.items():
            if parse_duration(site_class.contact_interval) < 1:
                raise KindError(document, ("spec", "siteClasses", name, "contactInterval"), "at least 1s")
        _check_limits(document, parsed)
    elif isinstance(parsed, RolloutPlan):
        names = [wave.name for wave in parsed.spec.waves]
        for index, wave in enumerate(parsed.spec.waves):
            _check_wave(document, wave, ("spec", "waves", index), names[:index])
        for flaw in flaws(parsed.spec):
            raise KindError(document, ("spec", *flaw.path), flaw.what)
        if any(wave.rest for wave in parsed.spec.waves[:-1]):
            raise KindError(
                document, ("spec", "waves"), "rest: true takes what is left, so it can only be the last wave"
            )


def _check_limits(document: Document, fleet: Fleet) -> None:
    limit, names = fleet.spec.limits.max_disrupted, set[str]()
    if limit == "0%" or (isinstance(limit, int) and limit < 1):
        what = "nobody could ever be in flight; at least 1 or 1%"
        raise KindError(document, ("spec", "limits", "maxDisrupted"), what)
    for index, server in enumerate(fleet.spec.metric_servers):
        path: Path = ("spec", "metricServers", index)
        if server.name in names:
            raise KindError(document, (*path, "name"), f"two servers are named {server.name}")
        if not is_http(server.url):
            raise KindError(document, (*path, "url"), "not an http or https address")
        names.add(server.name)


ALWAYS = "0 * * * *"
_WINDOW_FIELDS: dict[str, Path] = {"V071": ("timeZone",), "V073": ("window", "duration")}


def check_window(document: Document, cron: str, duration: str, zone: str, path: Path) -> None:
    """That a window can be used; the fields of it stand below ``path``."""
    try:
        parse_window(cron, duration, zone)
    except ValidationError as error:
        where = _WINDOW_FIELDS.get(error.code, ("window", "cron"))
        raise KindError(document, (*path, *where), f"{error.message}: {error.object}") from error


def _check_removal(document: Document, bundle: Bundle) -> None:
    """A bundle that is being removed has no objects, so nothing that says where they come from means anything."""
    spec = bundle.spec
    if spec.remove is None:
        return
    idle = {"source": spec.source != Source(), "render": spec.render != Render(),
            "namespace": bool(spec.namespace), "secrets": bool(spec.secrets)}  # fmt: skip
    for field, is_set in idle.items():
        if is_set:
            raise KindError(document, ("spec", field), "means nothing beside spec.remove; take it out")
    if spec.remove.namespaces and not spec.remove.claims:
        what = "a namespace takes its claims with it; say claims: true as well, or neither"
        raise KindError(document, ("spec", "remove", "namespaces"), what)


def _check_wave(document: Document, wave: Wave, path: Path, earlier: list[str]) -> None:
    ways = [wave.rest, wave.selector is not None, bool(wave.names), isinstance(wave.percent, str)]
    if sum(ways) != 1:
        raise KindError(document, path, "exactly one of names, selector, percent and rest: true")
    if len(set(wave.names)) < len(wave.names):
        raise KindError(document, (*path, "names"), "a cluster is named twice")
    if wave.selector is not None:
        _check_selector(document, wave.selector, (*path, "selector"))
    if wave.name in earlier:
        raise KindError(document, (*path, "name"), f"two waves are named {wave.name}")


def _check_selector(document: Document, selector: Selector, path: Path) -> None:
    for index, term in enumerate(selector.match_expressions):
        wants = term.operator in ("In", "NotIn")
        if wants != bool(term.values):
            where = (*path, "matchExpressions", index)
            what = f"{term.operator} takes {'at least one of' if wants else 'no'} values"
            raise KindError(document, where, what)
