"""What an interface definition may say, and which values fit it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.idl import (
    Array,
    Dictionary,
    Enumeration,
    IdlError,
    Interface,
    Method,
    Named,
    Nullable,
    Primitive,
    Struct,
    parse,
)

# A busy machine is no counter-example.

HEAD = "interface a.b\n"

EVERYTHING = """\
# About the interface, in
\t# two lines.
interface org.example-x.Every1

type Point(x:int,y:int)
type Colour (
  # the first
  red,
  green   # the second
  ,
  blue
)
# Refers to one that comes later.
type Shape (corners: []Point, holes: ?[]Hole, colour: Colour)
type Hole (inside: Shape)

method Draw(
  # documented
  shape: Shape, scale: ?float, options: [string]any, tags: [string](), raw: object
) -> (
  drawn: bool, how: (fast, slow), notes: ?[]?[string]?(text: string, at: Point)
)
method Nothing() -> ()   # a comment behind
method type(a: int)->(b: int)
error Failed ()
error Broken(type: string, method: int, error: any)
# The end, without a line end"""


def test_the_whole_language_is_read():
    """Every form of UAPI.20's grammar has its value, whatever blanks and comments are around."""
    text = EVERYTHING.replace("method type", "method Type")
    interface = parse(text)
    point = Named("Point", {})
    assert interface.name == "org.example-x.Every1"
    assert text == interface.description
    assert {
        "Point": Struct({"x": Primitive("int"), "y": Primitive("int")}),
        "Colour": Enumeration(("red", "green", "blue")),
        "Shape": Struct(
            {
                "corners": Array(point),
                "holes": Nullable(Array(Named("Hole", {}))),
                "colour": Named("Colour", {}),
            }
        ),
        "Hole": Struct({"inside": Named("Shape", {})}),
    } == interface.types
    assert {
        "Draw": Method(
            Struct(
                {
                    "shape": Named("Shape", {}),
                    "scale": Nullable(Primitive("float")),
                    "options": Dictionary(Primitive("any")),
                    "tags": Dictionary(Struct({})),
                    "raw": Primitive("object"),
                }
            ),
            Struct(
                {
                    "drawn": Primitive("bool"),
                    "how": Enumeration(("fast", "slow")),
                    "notes": Nullable(
                        Array(
                            Nullable(
                                Dictionary(
                                    Nullable(Struct({"text": Primitive("string"), "at": point}))
                                )
                            )
                        )
                    ),
                }
            ),
        ),
        "Nothing": Method(Struct({}), Struct({})),
        "Type": Method(Struct({"a": Primitive("int")}), Struct({"b": Primitive("int")})),
    } == interface.methods
    assert {
        "Failed": Struct({}),
        "Broken": Struct(
            {
                "type": Primitive("string"),
                "method": Primitive("int"),
                "error": Primitive("any"),
            }
        ),
    } == interface.errors


LINE_ENDS = ["\n", "\r\n", "\r", "\u2028", "\u2029"]
BLANKS = [" ", "\t", "\u00a0", "\ufeff", "\u1680", "\u180e", "\u2000", "\u200a", "\u3000"]


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("blank", BLANKS)
def test_every_blank_and_line_end_of_the_specification_is_one(blank, line_end):
    """Definitions come from other systems and editors."""
    text = f"{blank}#c{line_end}interface{blank}a.b{blank}{line_end}error{blank}E(){line_end}"
    assert {"E": Struct({})} == parse(text).errors


@pytest.mark.parametrize(
    "name",
    ["a.b", "A.B", "a.0", "io.sockbroker", "a-b.c--d", "xn--lgbbat1ad8j.example.com", "a0.b1"],
)
def test_a_name_of_an_interface_may_be(name):
    """Reverse-domain names, with digits and inner hyphens."""
    assert name == parse(f"interface {name}\nerror E ()").name


WRONG = [
    # The head.
    ("", 1, "a keyword is missing"),
    ("# only a comment", 1, "a keyword is missing"),
    ("Interface a.b\nerror E ()", 1, "a keyword is missing"),
    ("method a.b\nerror E ()", 1, "an interface definition begins with `interface`"),
    ("interface", 1, "a space is missing after `interface`"),
    ("interface ", 1, "the name of an interface is missing"),
    ("interface a\nerror E ()", 1, "the name of an interface is missing"),
    ("interface 0a.b\nerror E ()", 1, "the name of an interface is missing"),
    ("interface -a.b\nerror E ()", 1, "the name of an interface is missing"),
    ("interface a..b\nerror E ()", 1, "the name of an interface is missing"),
    ("interface é.b\nerror E ()", 1, "the name of an interface is missing"),
    ("interface a.b-\nerror E ()", 1, "the line has to end here"),
    ("interface a.b_c\nerror E ()", 1, "the line has to end here"),
    ("interface a.b error E ()", 1, "the line has to end here"),
    ("interface a.b", 1, "a keyword is missing"),
    ("interface a.b\n# nothing else\n", 3, "a keyword is missing"),
    # Members.
    (HEAD + "struct S ()", 2, "`type`, `method` or `error` is missing"),
    (HEAD + "interface c.d", 2, "`type`, `method` or `error` is missing"),
    (HEAD + "error(a: int)", 2, "a space is missing after `error`"),
    (HEAD + "errorE ()", 2, "a space is missing after `error`"),
    (HEAD + "error e ()", 2, "the name of the error is missing"),
    (HEAD + "type 1 ()", 2, "the name of the type is missing"),
    (HEAD + "method É() -> ()", 2, "the name of the method is missing"),
    (HEAD + "error E_F ()", 2, "`(` is missing"),
    (HEAD + "error E", 2, "`(` is missing"),
    (HEAD + "error E () error F ()", 2, "the line has to end here"),
    (HEAD + "error E () x", 2, "the line has to end here"),
    (HEAD + "type T int", 2, "`(` is missing"),
    (HEAD + "type T []int", 2, "`(` is missing"),
    (HEAD + "type T ?(a: int)", 2, "`(` is missing"),
    (HEAD + "error E (a, b)", 2, "fields have types here"),
    (HEAD + "method M(a) -> ()", 2, "fields have types here"),
    (HEAD + "method M() -> (a)", 2, "fields have types here"),
    (HEAD + "method M()", 2, "`->` is missing"),
    (HEAD + "method M() - > ()", 2, "`->` is missing"),
    (HEAD + "method M() ->", 2, "`(` is missing"),
    (HEAD + "error E ()\nerror F ()\n\ntype E ()", 5, "E is there already"),
    (HEAD + "method E() -> ()\nerror E ()", 3, "E is there already"),
    (HEAD + "type E (a)\nmethod E() -> ()", 3, "E is there already"),
    # Fields.
    (HEAD + "error E (", 2, "the name of a field is missing"),
    (HEAD + "error E (a: int,)", 2, "the name of a field is missing"),
    (HEAD + "error E (,a: int)", 2, "the name of a field is missing"),
    (HEAD + "type T (a,)", 2, "the name of a field is missing"),
    (HEAD + "error E (_a: int)", 2, "the name of a field is missing"),
    (HEAD + "error E (1a: int)", 2, "the name of a field is missing"),
    (HEAD + "error E (a_: int)", 2, "`)` is missing"),
    (HEAD + "error E (a__b: int)", 2, "`)` is missing"),
    (HEAD + "error E (a-b: int)", 2, "`)` is missing"),
    (HEAD + "error E (a: int b: int)", 2, "`)` is missing"),
    (HEAD + "error E (a: int", 2, "`)` is missing"),
    (HEAD + "error E (a: int, b)", 2, "all fields have a type, or none"),
    (HEAD + "type T (\n  a,\n  b: int\n)", 4, "all fields have a type, or none"),
    (HEAD + "error E (a: int, a: int)", 2, "a is there already"),
    (HEAD + "type T (a, b, a)", 2, "a is there already"),
    # Types.
    (HEAD + "error E (a:)", 2, "a type is missing"),
    (HEAD + "error E (a: [int]int)", 2, "a type is missing"),
    (HEAD + "error E (a: [ ]int)", 2, "a type is missing"),
    (HEAD + "error E (a: [])", 2, "a type is missing"),
    (HEAD + "error E (a: ??int)", 2, "`??` is no more than `?`"),
    (HEAD + "error E (a: integer)", 2, "integer is no type"),
    (HEAD + "error E (a: T_)", 2, "`)` is missing"),
    (HEAD + "error E (a: T_a)", 2, "T_a is no type"),
    (HEAD + "type T (a: int)\nerror E (a: U)\nerror U ()", 3, "there is no type U"),
    (HEAD + "error E (a: " + "[]" * 1000 + "int)", 2, "too many types within types"),
    (HEAD + "error E (a: " + "(a: " * 1000, 2, "too many types within types"),
    (HEAD + "error E (a: " + "?[]" * 8 + "int)", 2, "too many types within types"),
]


@pytest.mark.parametrize(("text", "line", "what"), WRONG)
def test_what_is_no_definition_is_refused_with_its_line(text, line, what):
    """A mistake in a definition shows at the start of the program, where it is and what."""
    with pytest.raises(IdlError) as refused:
        parse(text)
    assert (line, what) == (refused.value.line, refused.value.what)
    assert f"line {line}: {what}" == str(refused.value)


# Values.

DEFINITION = parse(
    HEAD
    + """
type Colour (red, green)
type Point (x: int, y: ?int)
type Tree (name: string, below: []Tree)
method M(
  bool: ?bool, int: ?int, float: ?float, string: ?string, object: ?object, any: ?any,
  enum: ?(one, two), struct: ?(a: int), array: ?[]int, nulls: ?[]?int, map: ?[string]int,
  set: ?[string](), colour: ?Colour, point: ?Point, tree: ?Tree, deep: ?[][string](p: ?Point)
) -> ()
method Needs(a: int, b: any, c: ?string) -> ()
"""
)

RIGHT = [
    ("bool", [True, False]),
    ("int", [0, -1, 2**63 - 1, -(2**63)]),
    ("float", [0.0, -1.5, 1e308, 0, 2**64, 10**300]),
    ("string", ["", "x", "\0", "é"]),
    ("object", [{}, {"x": None}, {"x": [1, {"y": {}}]}]),
    ("any", [True, 0, 0.5, "", {}, [], [None], {"x": None}]),
    ("enum", ["one", "two"]),
    ("struct", [{"a": 1}]),
    ("array", [[], [1], [1, 2, 3]]),
    ("nulls", [[], [None], [1, None]]),
    ("map", [{}, {"": 1}, {"x": 1, "y.z": 2}]),
    ("set", [{}, {"x": {}, "y": {}}]),
    ("colour", ["red"]),
    ("point", [{"x": 1}, {"x": 1, "y": None}, {"x": 1, "y": 2}]),
    ("tree", [{"name": "", "below": [{"name": "", "below": []}]}]),
    ("deep", [[], [{}], [{"k": {}}], [{"k": {"p": {"x": 1}}}]]),
]

FAULTY = [
    ("bool", [0, 1, "true", [], {}], "bool"),
    ("int", [True, False, 1.0, "1", 2**63, -(2**63) - 1, [], {}], "int"),
    ("float", [True, "1", 10**309, -(10**309), [], {}], "float"),
    ("string", [1, True, [], {}], "string"),
    ("object", [[], "{}", 1, False], "object"),
    ("enum", ["three", "", "One", 1, ["one"], {"one": {}}], "enum"),
    ("struct", [[], "a", 1], "struct"),
    ("struct", [{}, {"a": None}, {"a": "1"}, {"a": True}], "struct.a"),
    ("struct", [{"a": 1, "b": 2}, {"a": 1, "b": None}], "struct.b"),
    ("array", [{}, "x", 1], "array"),
    ("array", [["1"], [None]], "array.0"),
    ("array", [[1, 2, 3.5]], "array.2"),
    ("nulls", [[None, 1, "1"]], "nulls.2"),
    ("map", [[], "x", 1], "map"),
    ("map", [{"x": 1, "y": None}, {"y": "1"}], "map.y"),
    ("set", [["x"], "x"], "set"),
    ("set", [{"x": None}, {"x": True}, {"x": []}], "set.x"),
    ("set", [{"x": {"y": 1}}], "set.x.y"),
    ("colour", ["blue", 1], "colour"),
    ("point", [{}, {"x": None, "y": 1}, {"x": 0.5}], "point.x"),
    ("point", [{"x": 1, "y": "1"}], "point.y"),
    ("point", [{"x": 1, "z": "1"}], "point.z"),
    ("tree", [{"name": ""}, {"name": "", "below": None}], "tree.below"),
    ("tree", [{"name": "", "below": [{"name": "", "below": [1]}]}], "tree.below.0.below.0"),
    ("deep", [[{"k": {"p": {"x": "1"}}}]], "deep.0.k.p.x"),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in RIGHT for value in [*values, None]]
)
def test_a_value_of_the_type_fits(name, value):
    """What the definition permits is let through, and for a nullable field null is absent."""
    assert DEFINITION.methods["M"].parameters.check({name: value}) is None


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [(name, value, where) for name, values, where in FAULTY for value in values],
)
def test_a_value_of_another_type_is_found(name, value, where):
    """The fault is named, with dots where it lies below a parameter."""
    assert where == DEFINITION.methods["M"].parameters.check({name: value})


PARAMETERS = [
    ({"a": 1, "b": 2}, None),
    ({"b": 2, "a": 1, "c": None}, None),
    ({"a": 1, "b": 2, "c": "x"}, None),
    ({}, "a"),
    ({"a": None, "b": 2}, "a"),
    ({"a": 1}, "b"),
    ({"a": 1, "b": None}, "b"),
    ({"a": "1", "z": 1}, "a"),
    ({"z": 1, "a": 1, "b": 1, "y": 1}, "z"),
    ({"a": 1, "b": 1, "d": None}, "d"),
    ({"a": 1, "b": 1, "": 1}, ""),
    ({"a": 1, "b": 1, "A": 1}, "A"),
]


@pytest.mark.parametrize(("parameters", "wrong"), PARAMETERS)
def test_the_first_wrong_parameter_is_named(parameters, wrong):
    """Declared ones first, in their order; then the unknown ones, which not even null excuses."""
    assert wrong == DEFINITION.methods["Needs"].parameters.check(parameters)


# Every definition and every value.

PRIMITIVES = ["bool", "int", "float", "string", "object", "any"]
FIELD_NAMES = st.from_regex(r"\A[A-Za-z](_?[A-Za-z0-9]){0,5}\Z")


def _structs(kinds):
    return st.dictionaries(FIELD_NAMES, kinds, max_size=3).map(Struct)


ENUMERATIONS = st.lists(FIELD_NAMES, min_size=1, max_size=3, unique=True).map(
    lambda names: Enumeration(tuple(names))
)
TYPES = st.recursive(
    st.sampled_from([Primitive(keyword) for keyword in PRIMITIVES]) | ENUMERATIONS,
    lambda below: (
        _structs(below)
        | below.map(Array)
        | below.map(Dictionary)
        | below.filter(lambda kind: not isinstance(kind, Nullable)).map(Nullable)
    ),
    max_leaves=6,
)


def _text(kind) -> str:
    match kind:
        case Primitive(keyword):
            return keyword
        case Enumeration(names):
            return f"({', '.join(names)})"
        case Nullable(of):
            return f"?{_text(of)}"
        case Array(of):
            return f"[]{_text(of)}"
        case Dictionary(of):
            return f"[string]{_text(of)}"
        case Struct(fields):
            return f"({', '.join(f'{name}: {_text(below)}' for name, below in fields.items())})"
    raise AssertionError(kind)


def _values(kind):
    match kind:
        case Primitive("bool"):
            return st.booleans()
        case Primitive("int"):
            return st.integers(-(2**63), 2**63 - 1)
        case Primitive("float"):
            return st.floats(allow_nan=False, allow_infinity=False) | st.integers()
        case Primitive("string"):
            return st.text(max_size=5)
        case Primitive("object"):
            return st.dictionaries(st.text(max_size=5), st.none() | st.integers(), max_size=3)
        case Primitive(_):
            return st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
        case Enumeration(names):
            return st.sampled_from(names)
        case Nullable(of):
            return st.none() | _values(of)
        case Array(of):
            return st.lists(_values(of), max_size=3)
        case Dictionary(of):
            return st.dictionaries(st.text(max_size=5), _values(of), max_size=3)
        case Struct(fields):
            return st.fixed_dictionaries({name: _values(of) for name, of in fields.items()})
    raise AssertionError(kind)


@given(_structs(TYPES), _structs(TYPES), _structs(TYPES), ENUMERATIONS | _structs(TYPES))
def test_a_definition_says_what_was_meant(parameters, reply, error, alias):
    """Whatever is written in the language is read as it was meant."""
    text = (
        f"interface a.b\ntype T {_text(alias)}\n"
        f"method M{_text(parameters)} -> {_text(reply)}\nerror E {_text(error)}\n"
    )
    expected = Interface("a.b", text, {"T": alias}, {"M": Method(parameters, reply)}, {"E": error})
    assert expected == parse(text)


@given(st.data(), _structs(TYPES))
def test_every_value_of_a_type_fits_it(data, struct):
    """Nothing that a definition permits is refused."""
    assert struct.check(data.draw(_values(struct))) is None


@given(st.data(), TYPES, st.sampled_from([None, True, 7, 7.5, "?", [[[7]]], {"?": {"?": 7}}]))
def test_a_fault_lies_where_it_is_said_to(data, kind, intruder):
    """A value that does not fit is found in a struct, an array and a map, at its place."""
    fault = kind.fault(intruder)
    if fault is None:
        return
    ending = f".{fault}" if fault else ""
    right = data.draw(_values(kind))
    assert f"x{ending}" == Struct({"x": kind}).fault({"x": intruder}) or intruder is None
    assert f"1{ending}" == Array(kind).fault([right, intruder])
    assert f"k{ending}" == Dictionary(kind).fault({"j": right, "k": intruder})


@given(
    st.text(max_size=100)
    | st.text(alphabet="a:,()[]?-> \n#T", max_size=60).map(lambda rest: HEAD + "type T " + rest)
    | st.lists(
        st.sampled_from(["type ", "method ", "error ", "T", "(", ")", "a", ":", "int", ",", "\n"])
    ).map(lambda words: HEAD + "".join(words))
)
def test_any_text_is_a_definition_or_an_idl_error(text):
    """There is no third outcome."""
    refused = None
    try:
        parse(text)
    except IdlError as error:
        refused = error
    assert refused is None or 1 <= refused.line <= 1 + text.count("\n")
