"""Generators of the user's own: a factory in a file or a package becomes a recipe."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.gans import Gan
from models.generators import Generator
from models.grammar import UnknownName
from models.isolation import Place, find
from models.nets import Shape
from models.signatures import keys_of, parameters

_HANDED = ("shape", "latent")
"""Parameters of a factory that are never keys of their own."""


@dataclass(frozen=True)
class ExternalGenerator(Gan):
    """A factory of the user's own; what it returns is used as it is, with weights= loaded into
    it.
    """

    factory: typing.ClassVar[Callable[..., nn.Module]]
    place: typing.ClassVar[Place]
    passed: typing.ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        idle = [
            f.name
            for f in dataclasses.fields(Gan)
            if f.name not in (*self.passed, "latent", "prior", "seed", "weights")
            and getattr(self, f.name) != f.default
        ]
        if idle:
            raise ValueError(
                f"{idle[0]} is of training, and a generator of your own is not trained"
            )

    def net(self, shape: Shape) -> nn.Module:
        """What the factory returns for the keys of the spec, and the shape and latent where it has
        parameters of these names; what the spec leaves out, the factory decides.
        """
        handed = {"shape": shape, "latent": self.latent}
        fields = {field.name: field for field in dataclasses.fields(self)}
        wanted = parameters(type(self).factory)
        values = {name: value for name, value in handed.items() if name in wanted}
        for name in self.passed:
            value = getattr(self, name)
            if wanted[name].default is inspect.Parameter.empty or value != fields[name].default:
                values[name] = value
        with self.place.isolated():
            net = type(self).factory(**values)
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"{type(self).__name__} must return a torch.nn.Module, got {type(net).__name__}"
            )
        return net

    def holder(self, made: Generator) -> nn.Module:
        """The module that the factory returned."""
        return made.net

    def discriminator(self, shape: Shape) -> nn.Module:  # noqa: ARG002  it has none
        """None: such a generator is not trained here."""
        raise ValueError(f"{self.to_spec()} is not trained here and plays against nothing")

    @property
    def is_given(self) -> bool:
        """True: it is used as it is."""
        return True

    @property
    def is_untrained(self) -> bool:
        """Whether no weights are loaded, so that nobody can say that it was trained."""
        return self.weights is None


def recipe(name: str) -> type[ExternalGenerator]:
    """A recipe class whose keys are latent (the factory's default where it has one), prior, seed,
    weights and the factory's parameters (see models.external.recipe); shape and latent are handed
    to a factory that has parameters of these names.
    """
    found, place = find(name)
    if isinstance(found, nn.Module) or not callable(found):
        raise UnknownName(
            f"{name} must be a factory of a torch.nn.Module, got a {type(found).__name__} object"
        )
    own = {f.name for f in dataclasses.fields(Gan)}
    keys = keys_of(found, without=_HANDED)
    made = dataclasses.make_dataclass(
        name.rpartition(":")[2],
        [*_latent(found), *(key.field() for key in keys if key.name not in own)],
        bases=(ExternalGenerator,),
        frozen=True,
        kw_only=True,
        namespace={
            "factory": staticmethod(found),
            "place": place,
            "passed": tuple(key.name for key in keys if key.name != "weights" or key.is_required),
            "label": f"{place.stem}:{name.rpartition(':')[2]}",
            "source_digest": place.digest(),
            "__doc__": inspect.getdoc(found) or f"{name.rpartition(':')[2]} of {place.name}.",
        },
    )
    return typing.cast("type[ExternalGenerator]", made)


def _latent(found: Callable[..., nn.Module]) -> list[tuple[str, type, int]]:
    """The field latent with the factory's own default, where it has one."""
    default = getattr(parameters(found).get("latent"), "default", None)
    return [("latent", int, default)] if type(default) is int else []
