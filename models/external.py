"""Models of the user's own: a factory in a file or a package becomes a recipe."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.grammar import UnknownName
from models.isolation import Place, find
from models.nets import Shape
from models.recipes import Classifier
from models.signatures import keys_of, parameters


@dataclass(frozen=True)
class ExternalModel(Classifier):
    """A factory of the user's own; without weights= the model it returns is evaluated as it is."""

    factory: typing.ClassVar[Callable[..., nn.Module]]
    place: typing.ClassVar[Place]
    required: typing.ClassVar[frozenset[str]]
    passed: typing.ClassVar[tuple[str, ...]]

    def architecture(self, shape: Shape, classes: int) -> nn.Module:  # noqa: ARG002  the factory knows both
        """What the factory returns for the keys of the spec; what the spec leaves out, the factory
        decides.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in self.passed}
        given = {
            name: value
            for name, value in values.items()
            if name in self.required or value != fields[name].default
        }
        with self.place.isolated():
            net = type(self).factory(**given)
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"{type(self).__name__} must return a torch.nn.Module, got {type(net).__name__}"
            )
        return net

    @property
    def is_trained(self) -> bool:
        """True: the factory's model is evaluated as returned."""
        return True


def recipe(name: str) -> type[ExternalModel]:
    """A recipe class whose keys are the factory's parameters beside those of every model.

    A parameter is a key if it is an int, float, bool or str (or none) by its annotation, else by
    its default; one without either is a str. weights= is loaded into what the factory returns and
    handed to it only where it asks for weights without a default.
    """
    found, place = find(name)
    if isinstance(found, nn.Module) or not callable(found):
        raise UnknownName(
            f"{name} must be a factory of a torch.nn.Module, got a {type(found).__name__} object"
        )
    own = {f.name for f in dataclasses.fields(Classifier)}
    keys = keys_of(found)
    named = {key.name for key in keys} | (own & parameters(found).keys())
    required = frozenset(key.name for key in keys if key.is_required)
    made = dataclasses.make_dataclass(
        name.rpartition(":")[2],
        [key.field() for key in keys if key.name not in own],
        bases=(ExternalModel,),
        frozen=True,
        kw_only=True,
        namespace={
            "factory": staticmethod(found),
            "place": place,
            "required": required,
            "passed": tuple(n for n in named if n != "weights" or n in required),
            "label": f"{place.stem}:{name.rpartition(':')[2]}",
            "source_digest": place.digest(),
            "__doc__": inspect.getdoc(found) or f"{name.rpartition(':')[2]} of {place.name}.",
        },
    )
    return typing.cast("type[ExternalModel]", made)
