"""Spec grammar and lazy recipe tables; never imports torch.

A spec is ``NAME[:KEY=VALUE,...]``. NAME is a name of a table, ``path/to/file.py:attribute`` or
``package.module:attribute``; a spec inside a spec stands in brackets. A recipe is a frozen
dataclass; its fields are the keys, its annotations the types, its docstring the documentation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from models.grammar import (
    Spec,
    UnknownName,
    convert,
    near,
    parse,
    split_top,
    type_name,
    unwrapped,
)


def build(cls: type, spec: Spec, *, kind: str) -> Any:
    """An instance of recipe class ``cls`` with the options of ``spec``; refuses unknown keys and
    bad values.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
    values = {}
    for key, text in spec.options:
        if key not in fields:
            if not fields:
                raise UnknownName(f"{kind} {spec.name!r} takes no keys, got {key!r}")
            raise near(key, fields, f"key of {kind} {spec.name!r} named", f"bench show {spec.name}")
        try:
            values[key] = convert(text, fields[key])
        except (ValueError, OverflowError) as err:
            if isinstance(err, UnknownName) or hasattr(fields[key], "from_spec"):
                raise
            rule = (
                str(err) if str(err).startswith(("one of", "true or")) else type_name(fields[key])
            )
            raise ValueError(f"{spec.name}: {key} must be {rule}, got {text!r}") from err
    required = [f.name for f in dataclasses.fields(cls) if f.init and not _has_default(f)]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"{spec.name} needs {', '.join(f'{m}=' for m in missing)}")
    try:
        return cls(**values)
    except ValueError as err:
        raise ValueError(f"{spec.name}: {err}") from err


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )


def _is_content(field: dataclasses.Field[Any]) -> bool:
    """Whether the field names a file whose content, not name, is what counts."""
    return bool(field.metadata.get("content"))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


class Registry:
    """A table from names to ``module:Class`` strings, widened by an entry-point group of plug-ins.

    Names are checked without importing anything; classes are imported when first asked for.
    """

    def __init__(
        self,
        kind: str,
        table: Mapping[str, str],
        *,
        loader: Callable[[str], Any] | None = None,
        families: Mapping[str, str] | None = None,
    ):
        """families: first parts of names such as `foolbox:LinfPGD`, each with the `module:function`
        that makes a class from the rest.
        """
        self.kind = kind
        self.table = dict(table)
        self.families = dict(families or {})
        self.group = f"bench.{kind}s"
        self._loader = loader

    def plugins(self) -> dict[str, str]:
        """Names that installed packages add through the entry-point group."""
        return {e.name: e.value for e in importlib.metadata.entry_points(group=self.group)}

    def names(self) -> list[str]:
        """Every known name, the built-in ones first."""
        return [*self.table, *(name for name in self.plugins() if name not in self.table)]

    def check(self, text: str) -> Spec:
        """Parses a spec and refuses an unknown name; imports nothing."""
        spec = parse(text)
        if not spec.is_external and spec.name not in self.table and spec.name not in self.plugins():
            raise near(spec.name, self.names(), self.kind, f"bench list {self.kind}s")
        first, _, rest = spec.name.partition(":")
        if spec.is_external and first in self.table:
            raise ValueError(f"an option is KEY=VALUE, got {rest!r} in {text!r}")
        if spec.is_external and self._loader is None:
            raise UnknownName(f"a {self.kind} is one of {', '.join(self.names())}, got {text!r}")
        return spec

    def load(self, name: str) -> Any:
        """The class or factory behind a name."""
        first, _, rest = name.partition(":")
        if first in self.families:
            return _attribute(self.families[first])(rest)
        if ":" in name:
            if self._loader is None:
                raise UnknownName(
                    f"a {self.kind} is one of {', '.join(self.names())}, got {name!r}"
                )
            return self._loader(name)
        target = self.table.get(name) or self.plugins().get(name)
        if target is None:
            raise near(name, self.names(), self.kind, f"bench list {self.kind}s")
        return _attribute(target)

    def get(self, text: str) -> Any:
        """The recipe that a spec names."""
        spec = self.check(text)
        return build(self.load(spec.name), spec, kind=self.kind)

    def name_of(self, recipe: Any) -> str:
        """The table's name of a recipe, or ``stem:Class`` of one from outside."""
        cls = type(recipe)
        target = f"{cls.__module__}:{cls.__qualname__}"
        known = next((name for name, place in self.table.items() if place == target), None)
        if known is None and hasattr(cls, "label"):
            return str(cls.label)
        plugins = {} if known else {place: name for name, place in self.plugins().items()}
        return known or plugins.get(target, f"{cls.__module__}:{cls.__qualname__}")

    def describe(self, recipe: Any) -> str:
        """The shortest spec that gives this recipe again: fields that differ from their
        defaults.
        """
        items = []
        for field in dataclasses.fields(recipe):
            value = getattr(recipe, field.name)
            if field.init and value != _default(field):
                shown = Path(value).stem if _is_content(field) and value else self._text(value)
                items.append(f"{field.name}={shown}")
        name = self.name_of(recipe)
        return f"{name}:{','.join(items)}" if items else name

    @staticmethod
    def _text(value: Any) -> str:
        if hasattr(value, "to_spec"):
            inner = value.to_spec()
            return f"[{inner}]" if ":" in inner else str(inner)
        if isinstance(value, bool) or value is None:
            return str(value).lower()
        if isinstance(value, str):
            is_plain = value and value == value.strip() and not set(value) & set(",[")
            return value if is_plain else f"[{value}]"
        return repr(value) if isinstance(value, float) else str(value)

    def identity(self, recipe: Any) -> dict[str, Any]:
        """What a recipe is for a digest: its name, every field with its value, and its revision."""
        fields = {
            f.name: self._plain(f, getattr(recipe, f.name)) for f in dataclasses.fields(recipe)
        }
        source = getattr(type(recipe), "source_digest", None)
        # What comes from a file is known by the file's content, never by its name.
        name = (
            {"source": source, "attribute": type(recipe).__name__}
            if source
            else self.name_of(recipe)
        )
        return {"name": name, "revision": getattr(recipe, "revision", 1), "fields": fields}

    @staticmethod
    def _plain(field: dataclasses.Field[Any], value: Any) -> Any:
        if _is_content(field) and value is not None:
            return hashlib.blake2b(Path(value).read_bytes(), digest_size=16).hexdigest()
        if hasattr(value, "to_spec"):
            return value.identity()
        return repr(value) if isinstance(value, float) else value

    def describe_class(self, name: str) -> Description:
        """What ``bench list`` and ``bench show`` print of a name."""
        cls = self.load(name)
        doc = inspect.getdoc(cls) or ""
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        keys = []
        for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
            if field.init:
                default = _default(field)
                text = "required" if default is dataclasses.MISSING else self._text(default)
                keys.append((field.name, type_name(hints[field.name]), text))
        is_key = any(key == "kind" for key, *_ in keys)
        summary = doc.split("\n\n")[0].replace("\n", " ")
        paper = re.search(r"\(([^()]*\d{4}[^()]*)\)", summary)
        return Description(
            name=name,
            kind=self.kind,
            sort="" if is_key else str(_declared(cls, "kind") or ""),
            summary=re.sub(r"\s*\([^()]*\d{4}[^()]*\)", "", summary),
            paper=paper.group(1) if paper else "",
            keys=tuple(keys),
            norms=tuple(_declared(cls, "norms") or ()),
            access=str(getattr(cls, "access", "")),
            text=doc,
            traits={trait: _said(_declared(cls, trait)) for trait in TRAITS},
        )


@dataclass(frozen=True)
class Joined:
    """Entries of a table, several joined by +, each with keys in brackets: `[a:key=1]+b`."""

    table: ClassVar[Registry]
    recipes: tuple[Any, ...] = ()

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The entries that a text names."""
        return cls(tuple(cls.table.get(unwrapped(part.strip())) for part in split_top(text, "+")))

    def to_spec(self) -> str:
        """The shortest text that names them."""
        specs = [recipe.to_spec() for recipe in self.recipes]
        if len(specs) > 1:
            specs = [f"[{spec}]" if ":" in spec else spec for spec in specs]
        return "+".join(specs)

    def identity(self) -> list[Any]:
        """What they are, for digests."""
        return [recipe.identity() for recipe in self.recipes]


TRAITS = ("randomness", "masking", "rejection", "modes")
"""What a defense says of itself, see defenses.base.Defense."""


def _said(value: Any) -> str:
    """A trait as a table shows it."""
    return " ".join(value) if isinstance(value, tuple) else str(value or "")


def _declared(cls: Any, name: str) -> Any:
    """A class attribute, or what a property says of the recipe with its defaults."""
    value = getattr(cls, name, None)
    return getattr(cls(), name) if isinstance(value, property) else value


def _attribute(target: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Description:
    """A table entry for people: kind is the table's, sort the class's own (what an attack calls its
    kind); keys are (name, type, default); traits are what a defense declares of itself.
    """

    name: str
    kind: str
    sort: str
    summary: str
    paper: str
    keys: tuple[tuple[str, str, str], ...]
    norms: tuple[str, ...]
    access: str
    text: str
    traits: Mapping[str, str]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, whatever their order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _load_model(name: str) -> Any:
    return importlib.import_module("models.external").recipe(name)


models = Registry(
    "model",
    {
        "logreg": "models.recipes:Logreg",
        "mlp": "models.recipes:Mlp",
        "mlp_relu": "models.recipes:MlpRelu",
        "cnn_small": "models.recipes:CnnSmall",
        "cnn": "models.recipes:Cnn",
        "resnet18": "models.recipes:Resnet18",
    },
    loader=_load_model,
)


def _load_generator(name: str) -> Any:
    return importlib.import_module("models.external_generator").recipe(name)


generators = Registry(
    "generator",
    {
        "mlp": "models.architectures:Mlp",
        "dcgan": "models.architectures:Dcgan",
        "conditional": "models.architectures:Conditional",
        "defensegan": "models.architectures:DefenseGan",
        "progressive": "models.resolutions:Progressive",
        "style": "models.resolutions:Style",
        "cyclegan": "models.cyclegan:CycleGan",
    },
    loader=_load_generator,
)
"""Generator recipes: an architecture and how it is trained by default."""
