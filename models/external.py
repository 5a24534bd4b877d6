"""Things of the user's own: `path/to/file.py:attribute` and `package.module:attribute`.

Our packages are top-level names, and a user's file may mean its own `models` when it says `from
models.x import y`. Such a file is loaded isolated: names that stand beside it (or in the working
directory) hide ours while it is imported and while its factory runs; ours come back afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from models.nets import Shape
from models.recipes import Classifier
from models.registry import UnknownName, near
from models.train import Settings

OURS = ("models", "attacks", "defenses", "bench")
_OWN_ROOT = Path(__file__).resolve().parent.parent


def attribute(name: str) -> Any:
    """The attribute that `file.py:attribute` or `package.module:attribute` names."""
    place, _, wanted = name.rpartition(":")
    module = _module(place)
    if not hasattr(module, wanted):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise near(wanted, known, f"attribute of {place} named", "file.py:attribute")
    found = getattr(module, wanted)
    if isinstance(found, type):
        vars_of: Any = found
        vars_of.source_digest = _source_digest(module)
        vars_of.label = f"{Path(place).stem}:{wanted}"
    return found


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as err:
            raise UnknownName(
                f"no module {place!r} can be imported ({err.name} is missing)"
            ) from err
    path = Path(place)
    if not path.is_file():
        raise UnknownName(f"no file {place!r}")
    spec = importlib.util.spec_from_file_location(f"bench_external_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise UnknownName(f"{place!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with isolated(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as err:
            top = (err.name or "").partition(".")[0]
            raise UnknownName(
                f"{path.name} imports {err.name}, which is not found{_hint(top, path)}"
            ) from err
    return module


def _hint(top: str, path: Path) -> str:
    if top not in OURS:
        return ""
    place = f"put {path.name} beside your {top}/ or start bench in its folder"
    return f" in this package's own {top!r}; {place}"


@dataclasses.dataclass(frozen=True)
class _Beside(MetaPathFinder):
    """Finds the hidden top-level names in the user's roots, also where they are folders without an
    `__init__.py`: on the path a regular package such as ours would go before those.
    """

    hidden: frozenset[str]
    roots: tuple[str, ...]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The user's own, or None for every other name."""
        if path is not None or fullname not in self.hidden:
            return None
        return PathFinder.find_spec(fullname, self.roots, target)


@contextlib.contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Lets `import models` (attacks, defenses, bench) mean what stands in the folder or the working
    directory, where something of that name stands there; elsewhere they stay ours.
    """
    roots = [root for root in (folder, Path.cwd().resolve()) if root != _OWN_ROOT]
    hidden = {n for n in OURS for r in roots if (r / n).is_dir() or (r / f"{n}.py").is_file()}
    beside = _Beside(frozenset(hidden), tuple(map(str, roots)))

    def belongs(name: str) -> bool:
        return name.partition(".")[0] in hidden

    ours = {name: module for name, module in sys.modules.items() if belongs(name)}
    path = list(sys.path)
    for name in ours:
        del sys.modules[name]
    sys.path[:0] = beside.roots
    sys.meta_path.insert(0, beside)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        sys.meta_path.remove(beside)
        for name in [name for name in sys.modules if belongs(name)]:
            del sys.modules[name]
        sys.modules.update(ours)


def _source_digest(module: ModuleType) -> str:
    source = Path(module.__file__).read_bytes() if module.__file__ else module.__name__.encode()
    return hashlib.blake2b(source, digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class ExternalModel(Classifier):
    """A factory of the user's own; without weights= the model it returns is evaluated as it is."""

    factory: typing.ClassVar[Callable[..., nn.Module]]
    folder: typing.ClassVar[Path]
    passed: typing.ClassVar[tuple[str, ...]]

    def architecture(self, shape: Shape, classes: int) -> nn.Module:  # noqa: ARG002  the factory knows both
        """What the factory returns for the keys of the spec."""
        with isolated(self.folder):
            net = type(self).factory(**{name: getattr(self, name) for name in self.passed})
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"{type(self).__name__} must return a torch.nn.Module, got {type(net).__name__}"
            )
        return net

    @property
    def is_trained(self) -> bool:
        """True: the factory's model is evaluated as returned."""
        return True

    def settings(self, images: int, channels: int) -> Settings:
        """See Classifier; for defenses that train it further."""
        return super().settings(images, channels)


def recipe(name: str) -> type[ExternalModel]:
    """A recipe class whose keys are the factory's parameters beside those of every model."""
    found = attribute(name)
    if not callable(found):
        raise UnknownName(
            f"{name} must be callable (a factory of a torch.nn.Module), got {type(found).__name__}"
        )
    place, _, wanted = name.rpartition(":")
    module = _module(place) if not place.endswith(".py") else None
    source = Path(place) if module is None else Path(module.__file__ or ".")
    own = {f.name for f in dataclasses.fields(Classifier)}
    parameters = [
        p
        for p in inspect.signature(found).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    hints = _hints(found)
    fields = [
        (p.name, hints.get(p.name, _type_of(p.default)), _field(p))
        for p in sorted(parameters, key=lambda p: p.default is p.empty, reverse=True)
        if p.name not in own
    ]
    made = dataclasses.make_dataclass(
        wanted,
        fields,
        bases=(ExternalModel,),
        frozen=True,
        kw_only=True,
        namespace={
            "factory": staticmethod(found),
            "folder": source.resolve().parent,
            "passed": tuple(
                p.name for p in parameters if p.name in own or p.name in {f[0] for f in fields}
            ),
            "label": f"{source.stem}:{wanted}",
            "source_digest": hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest(),
            "__doc__": inspect.getdoc(found) or f"{wanted} of {source.name}.",
        },
    )
    return typing.cast("type[ExternalModel]", made)


def _hints(found: Any) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(
            vars(found).get("__init__", found) if isinstance(found, type) else found
        )
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if hint in (int, float, bool, str)}


def _type_of(default: Any) -> type:
    return type(default) if isinstance(default, int | float | str) else str


def _field(parameter: inspect.Parameter) -> Any:
    if parameter.default is parameter.empty:
        return dataclasses.field()
    if isinstance(parameter.default, list | dict | set):
        kept = parameter.default
        return dataclasses.field(default_factory=lambda: kept)
    return dataclasses.field(default=parameter.default)
