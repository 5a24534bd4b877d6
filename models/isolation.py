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
import importlib.abc
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from models.grammar import UnknownName, near

OURS = ("models", "attacks", "defenses", "bench")
_OWN_ROOT = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    Path(sysconfig.get_path(kind)).resolve()
    for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)

_left: set[str] = set()
"""Names in sys.modules that the user's file loaded last has left there."""


@dataclass(frozen=True)
class Place:
    """Where an attribute was found: the file, and the modules that stand beside it and belong to
    it, by name; no file for a package, which is imported as every other and not isolated.
    """

    name: str
    module: ModuleType
    file: Path | None
    modules: dict[str, ModuleType]

    @property
    def stem(self) -> str:
        """The name without folders and suffix, for tables."""
        return self.file.stem if self.file else self.name.rpartition(".")[2]

    def digest(self) -> str:
        """Of the sources: the file's, and those of its own modules that were imported with it."""
        hasher = hashlib.blake2b(digest_size=16)
        for name, module in [("", self.module), *sorted(self.modules.items())]:
            source = vars(module).get("__file__")
            content = Path(source).read_bytes() if source else module.__name__.encode()
            hasher.update(f"{name}|{len(content)}|".encode() + content)
        return hasher.hexdigest()

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """See `isolated`; an import that fails ends with an UnknownName that says what to do."""
        if self.file is None:
            yield
            return
        hidden = _hidden(_roots(self.file.parent))
        try:
            with isolated(self.file.parent, self.modules):
                yield
        except ImportError as err:
            top = (err.name or "").partition(".")[0]
            hint = _hint(top, self.file.name, own=top in hidden) if top in OURS else ""
            raise UnknownName(f"{self.file.name} cannot be imported: {err.msg}{hint}") from err


def _hint(top: str, file: str, *, own: bool) -> str:
    if own:
        return f"; the {top!r} beside it or in the working directory hides this package's own"
    return (
        f"; {top!r} is this package's own: put {file} beside your {top}/ or start bench in the "
        "folder that holds it"
    )


def find(name: str) -> tuple[Any, Place]:
    """The attribute that `file.py:attribute` or `package.module:attribute` names, and its place."""
    where, _, wanted = name.rpartition(":")
    place = _file(where) if where.endswith(".py") else _package(where)
    if not hasattr(place.module, wanted):
        known = [n for n in vars(place.module) if not n.startswith("_")]
        raise near(wanted, known, f"attribute of {where} named", "file.py:attribute")
    return getattr(place.module, wanted), place


def subclass(name: str, base: str) -> Any:
    """The recipe class of the user's own that `name` names; see recipe_class."""
    return recipe_class(name, *find(name), base)


def recipe_class(name: str, found: Any, place: Place, base: str) -> Any:
    """What was found under a name, as a recipe class; it must be a dataclass and a subclass of
    base (`module:Class`).
    """
    parent = find(base)[0]
    is_recipe = isinstance(found, type) and issubclass(found, parent)
    if not is_recipe or not dataclasses.is_dataclass(found):
        rule = f"must be a frozen dataclass and a subclass of {base.replace(':', '.')}"
        raise UnknownName(f"{name} {rule}, got {found!r:.80}")
    made: Any = found
    # A class of this package's own keeps its name in the table.
    home = sys.modules.get(made.__module__ if made.__module__.partition(".")[0] in OURS else "")
    if home is None or vars(home).get(made.__name__) is not made:
        made.source_digest = place.digest()
        made.label = f"{place.stem}:{made.__name__}"
    return made


def _package(name: str) -> Place:
    try:
        return Place(name, importlib.import_module(name), None, {})
    except ImportError as err:
        raise UnknownName(f"module {name!r} cannot be imported: {err.msg}") from err


def _file(name: str) -> Place:
    file = Path(name).resolve()
    if not file.is_file():
        raise UnknownName(f"no file {name!r}")
    tag = hashlib.blake2b(str(file).encode(), digest_size=8).hexdigest()
    spec = importlib.util.spec_from_file_location(f"bench_external_{file.stem}_{tag}", file)
    if spec is None or spec.loader is None:
        raise UnknownName(f"{name!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    place = Place(name, module, file, {})
    sys.modules[module.__name__] = module  # dataclasses look up the names in annotations there
    with place.isolated():
        spec.loader.exec_module(module)
    return place


def _roots(folder: Path) -> list[Path]:
    return [root for root in dict.fromkeys((folder, Path.cwd().resolve())) if root != _OWN_ROOT]


def _hidden(roots: list[Path]) -> set[str]:
    """Names of ours for which a module or a folder with modules stands below a root."""
    return {
        n
        for n in OURS
        for r in roots
        if (r / f"{n}.py").is_file() or next((r / n).glob("**/*.py"), None) is not None
    }


@dataclass(frozen=True)
class _Finder(importlib.abc.MetaPathFinder):
    """Finds the hidden names below the roots, where a search along sys.path would prefer our
    package to a folder of the user's that has no __init__.py.
    """

    roots: list[Path]
    hidden: set[str]

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """See MetaPathFinder."""
        if name not in self.hidden:
            return None
        found = [PathFinder.find_spec(name, [str(root)]) for root in self.roots]
        specs = sorted(filter(None, found), key=lambda spec: spec.loader is None)
        return specs[0] if specs else None


@contextlib.contextmanager
def isolated(folder: Path, modules: dict[str, ModuleType]) -> Iterator[None]:
    """Lets `import models` (attacks, defenses, bench) mean what stands in the folder or the working
    directory, where something of that name stands there; elsewhere they stay ours.

    modules: the folder's modules that were imported under it before, by name; they are put in
    place, and what is imported now is added. Those of another file that was loaded before make way,
    so that `blocks` is always the one beside the file.
    """
    roots = _roots(folder)
    hidden = _hidden(roots)
    ours = {name: m for name, m in sys.modules.items() if name.partition(".")[0] in hidden}
    for name in [*ours, *_left]:
        sys.modules.pop(name, None)
    _left.clear()
    before, path, finder = set(sys.modules), list(sys.path), _Finder(roots, hidden)
    sys.modules.update(modules)
    sys.path[:0] = [str(root) for root in roots]
    sys.meta_path.insert(0, finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if _belongs(name, sys.modules[name], roots, hidden):
                modules[name] = sys.modules[name]
        for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
            del sys.modules[name]
        sys.modules.update(ours)
        _left.update(name for name in modules if name.partition(".")[0] not in hidden)


def _belongs(name: str, module: ModuleType, roots: list[Path], hidden: set[str]) -> bool:
    """Whether a module is the user's: found below the roots, and neither installed nor ours."""
    top = name.partition(".")[0]
    source = getattr(module, "__dict__", {}).get("__file__")
    if top in OURS or not source:
        return top in hidden
    file = Path(source).resolve()
    installed = any(file.is_relative_to(place) for place in _INSTALLED)
    return not installed and any(file.is_relative_to(root) for root in roots)
