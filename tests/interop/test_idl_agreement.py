"""Another implementation's parser reads our interface definitions as ours does."""

from collections.abc import Mapping
from importlib import resources

import pytest
from varlink import scanner

from sockbroker.core import idl


def _ours(kind: idl.Type) -> object:
    """Spell a type of ours as nested tuples."""
    match kind:
        case idl.Primitive(keyword):
            return keyword
        case idl.Named(name, _):
            return "named", name
        case idl.Enumeration(names):
            return "enum", names
        case idl.Nullable(of):
            return "?", _ours(of)
        case idl.Array(of):
            return "[]", _ours(of)
        case idl.Dictionary(idl.Struct(fields)) if not fields:
            return "set"
        case idl.Dictionary(of):
            return "[string]", _ours(of)
        case idl.Struct(fields):
            return _our_fields(fields)


def _our_fields(fields: Mapping[str, idl.Type]) -> object:
    return "struct", tuple((name, _ours(kind)) for name, kind in fields.items())


def _theirs(kind: object) -> object:
    """Spell a type of theirs in the same way."""
    match kind:
        case scanner._CustomType():
            return "named", kind.name
        case scanner._Enum():
            return "enum", tuple(kind.fields)
        case scanner._Maybe():
            return "?", _theirs(kind.element_type)
        case scanner._Array():
            return "[]", _theirs(kind.element_type)
        case scanner._Dict():
            return "[string]", _theirs(kind.element_type)
        case scanner._Struct():
            return "struct", tuple((name, _theirs(of)) for name, of in kind.fields.items())
        case scanner._Object():
            return "object"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
        case set():
            return "set"
    raise AssertionError(kind)


DEFINITIONS = [
    ("sockbroker", "io.sockbroker"),
    ("sockbroker", "org.varlink.service"),
    ("varlink", "org.varlink.service"),
    ("varlink.tests", "org.example.more"),
    ("varlink.tests", "org.varlink.certification"),
]


@pytest.mark.parametrize(("package", "name"), DEFINITIONS)
def test_both_parsers_read_the_same(package, name):
    """Our definitions, and those that the other project ships, mean the same to both."""
    text = resources.files(package).joinpath(f"{name}.varlink").read_text("utf-8")
    ours, theirs = idl.parse(text), scanner.Interface(text)
    members = theirs.members.values()
    assert ours.name == theirs.name == name
    assert ours.description == theirs.get_description()
    assert {name: _ours(kind) for name, kind in ours.types.items()} == {
        member.name: _theirs(member.type)
        for member in members
        if isinstance(member, scanner._Alias)
    }
    assert {
        name: (_ours(method.parameters), _ours(method.reply))
        for name, method in ours.methods.items()
    } == {
        member.name: (_theirs(member.in_type), _theirs(member.out_type))
        for member in members
        if isinstance(member, scanner._Method)
    }
    assert {name: _ours(struct) for name, struct in ours.errors.items()} == {
        member.name: _theirs(member.type)
        for member in members
        if isinstance(member, scanner._Error)
    }


def test_our_standard_interface_is_the_usual_one_and_more():
    """Only the errors that UAPI.20 added are new; what clients already know is unchanged."""
    ours, theirs = (
        idl.parse(
            resources.files(package).joinpath("org.varlink.service.varlink").read_text("utf-8")
        )
        for package in ("sockbroker", "varlink")
    )
    assert ours.methods == theirs.methods
    added = {"PermissionDenied", "ExpectedMore", "ExpectedUpgrade"}
    assert theirs.errors == {
        name: struct for name, struct in ours.errors.items() if name not in added
    }
    assert added <= ours.errors.keys()
