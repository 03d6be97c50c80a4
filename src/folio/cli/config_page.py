"""Write docs/config.md, and JSON schemas with which editors complete conf/: python -m folio.cli.config_page

Both are made from the schema of the config: the types and docstrings of its fields, and the values in conf/.
"""

import ast
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter

from folio.cli.config_files import option_names, read_keys
from folio.config.run import RunConfig
from folio.config.section import PLUGIN_GROUPS, TARGET, Option
from folio.runtime.commands import CHECKOUT

HEADER = """\
# Config keys

Every key of the config, with its type, default and meaning. Set a key with `key=value`, as in
`training.max_steps=2000`, and choose an option of a group with `group=option`, as in `optimizer=muon`.
`python train.py --cfg job` prints the whole config of a command. `make schema` writes this page from the schema.

The default is that of `python train.py`; a model's size and an experiment may bring their own. Where the options of a
group have different keys, it is the one in the option's file.

**Completion in an editor.** `make schema` also writes JSON schemas into `schema/`, and `.vscode/settings.json` unless
there is one. With them VS Code and its YAML extension (by Red Hat) complete, explain and check the files of `conf/`.
For another editor that uses yaml-language-server, begin a file with
`# yaml-language-server: $schema=../../schema/optimizer.json`, or with `train.json` if the file has the line
`# @package _global_`.

**Completion in a shell.** `source scripts/completion.bash` lets bash complete the groups, options and keys of
`python train.py`, and the options of the scripts. For train.py alone, Hydra has its own for bash, zsh and fish:
`eval "$(python train.py --shell-completion install=zsh)"`.
"""

REQUIRED = "none"
"""Default of a key that must be given."""

INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
"""A value that Hydra takes from another key."""


def config_page(conf: Path) -> str:
    """Return docs/config.md."""
    top = read_keys(conf / "train.yaml")
    fields = RunConfig.model_fields
    groups = [group for group, field in fields.items() if sections_of(field.annotation) or group in PLUGIN_GROUPS]
    simple = {name: field for name, field in fields.items() if name not in groups}
    links = [("The run", "the-run"), *((group, group) for group in groups)]
    parts = [HEADER, "\n".join(f"- [{title}](#{anchor})" for title, anchor in links)]
    parts += ["## The run", _table(RunConfig, simple, "", top)]
    for group in groups:
        parts += [f"## {group}", *_group(conf, group, sections_of(fields[group].annotation), top)]
        if group in PLUGIN_GROUPS:
            parts += _plugins(conf, group)
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _group(conf: Path, group: str, sections: Sequence[type[BaseModel]], top: dict[str, Any]) -> Iterator[str]:
    """Yield the paragraphs of a group: one table for each section that its options have."""
    options = option_names(conf, group)
    if options:
        yield f"Options: {', '.join(f'`{group}={option}`' for option in options)}."
    for section in sections:
        names = _names_of(section)
        if len(sections) > 1:
            yield f"### {', '.join(names) if len(names) <= 5 else section.__name__.removesuffix('Config')}"
        if about := _first_sentence(section):
            yield about
        values = _default_values(conf, group, section, top)
        fields = {name: field for name, field in section.model_fields.items() if not (name == "name" and names)}
        yield _table(section, fields, f"{group}.", values) if fields else "It has no further keys."


def _plugins(conf: Path, group: str) -> Iterator[str]:
    """Yield a table for each file of conf/ that names a class: its arguments, with the values in the file."""
    for path in sorted((conf / group).glob("*.yaml")):
        about = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        arguments = read_keys(path)
        target = arguments.pop(TARGET, None)
        if target is None:
            continue
        yield f"### {path.stem}\n\n{in_markdown(about)} The class is `{target}`."
        if arguments:
            rows = (f"| `{group}.{path.stem}.{key}` | `{json.dumps(value)}` |" for key, value in arguments.items())
            yield "\n".join(["| argument | default |", "|---|---|", *rows])


def _default_values(conf: Path, group: str, section: type[BaseModel], top: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a section in the option that it belongs to, or that train.yaml chooses."""
    chosen = {
        key.removeprefix("override /"): value
        for entry in top["defaults"]
        if isinstance(entry, dict)
        for key, value in entry.items()
    }
    names = [name for name in _names_of(section) if (conf / group / f"{name}.yaml").is_file()]
    default = chosen.get(group)
    option = default if default in names or not names else names[0]
    values = read_keys(conf / group / f"{option}.yaml") if option else {}
    return (top.get(group) or {}) | values


def _table(section: type[BaseModel], fields: dict[str, Any], prefix: str, values: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|", *_rows(section, fields, prefix, values)]
    return "\n".join(rows)


def _rows(section: type[BaseModel], fields: dict[str, Any], prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for name, field in fields.items():
        inner = sections_of(field.annotation)
        key, value = (
            f"{prefix}{name}",
            values.get(name, REQUIRED if field.is_required() else field.get_default(call_default_factory=True)),
        )
        if inner and not isinstance(field.annotation, type):  # parts of a mixture: keys below any name
            yield _row(key, "a mapping, or null", value, describe(section, name))
            yield from _rows(inner[0], inner[0].model_fields, f"{key}.<name>.", {})
        elif inner:
            yield from _rows(inner[0], inner[0].model_fields, f"{key}.", value or {})
        else:
            yield _row(key, type_text(field_schema(field)), value, describe(section, name))


def _row(key: str, kind: str, value: Any, meaning: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"| `{key}` | {kind} | {text if value is REQUIRED else f'`{text}`'} | {in_markdown(meaning)} |".replace(
        "\n", " "
    )


def describe(section: type[Any], name: str) -> str:
    """Return the docstring of a field in one line. It may be that of a dataclass from which a section inherits it."""
    description = section.model_fields[name].description
    for base in section.__mro__:
        if not description and is_dataclass(base):
            description = attribute_docs(base).get(name)
    return " ".join((description or "").split()).replace("None", "null")


def in_markdown(text: str) -> str:
    """Return a text without characters that Markdown would obey in a table."""
    return re.sub(r"[|<*]", r"\\\g<0>", text)


def attribute_docs(owner: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, which Python itself throws away."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for node, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(node.target, ast.Name)
            assert isinstance(following.value, ast.Constant)
            docs[node.target.id] = inspect.cleandoc(str(following.value.value))
    return docs


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a field may hold, wherever its type names them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in typing.get_args(annotation) for section in sections_of(argument)]


def _names_of(section: type[BaseModel]) -> list[str]:
    """Return the names that select an option; none for a section that is always there."""
    field = section.model_fields.get("name")
    return list(typing.get_args(field.annotation)) if field and typing.get_origin(field.annotation) else []


def _first_sentence(section: type[BaseModel]) -> str:
    """Return what an option is; nothing if its docstring is about its code."""
    text = inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0]
    return " ".join(text.split()) if issubclass(section, Option) and "`code`" not in text else ""


def field_schema(field: Any) -> dict[str, Any]:
    """Return the JSON schema of a field's type."""
    kind = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return TypeAdapter(kind).json_schema()


def type_text(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words."""
    if "anyOf" in schema or "oneOf" in schema:
        members = [type_text(member) for member in schema.get("anyOf") or schema["oneOf"]]
        return ", or ".join([*(text for text in members if text != "null"), *(["null"] if "null" in members else [])])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = {sign: schema[name] for name, sign in signs.items() if name in schema and schema[name] != 2**31 - 1}
    bounds = [f"{sign} {limit:.10g}" for sign, limit in limits.items()]
    names = {"boolean": "`true`, `false`", "string": "text", "object": "a mapping", "null": "null"}
    if schema.get("type") == "array":
        return f"list of {schema.get('minItems', 'any number')}, each a {type_text(schema['items'])}"
    if schema.get("pattern"):
        return "name"
    return " ".join([names.get(schema.get("type", ""), schema.get("type", "any value")), ", ".join(bounds)]).strip()


# JSON schemas


def json_schemas(conf: Path) -> dict[str, Any]:
    """Return a schema for the files of each group, and `train` for those that set keys of the whole config."""
    whole = _relax(RunConfig.model_json_schema())
    _add_descriptions(whole)
    definitions = whole.pop("$defs")
    whole["properties"] |= {"defaults": {"type": "array"}, "hydra": {"type": "object"}}
    schemas = {"train": whole}
    for group in RunConfig.model_fields:
        if (conf / group).is_dir() and group in whole["properties"]:
            schemas[group] = {"type": "object"} if group in PLUGIN_GROUPS else dict(whole["properties"][group])
    return {name: schema | {"$defs": definitions} for name, schema in schemas.items()}


def _relax(schema: Any) -> Any:
    """Return a schema for a part of a config: no key is required, and Hydra may take a value from another key."""
    if isinstance(schema, list):
        return [_relax(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    relaxed = {
        key: _relax(value) for key, value in schema.items() if key not in ("required", "discriminator", "default")
    }
    if "oneOf" in relaxed:  # without `name`, a part may suit several options
        relaxed["anyOf"] = relaxed.pop("oneOf")
    if "properties" in relaxed:
        relaxed["properties"] = {name: _or_interpolated(value) for name, value in relaxed["properties"].items()}
    return relaxed


def _or_interpolated(schema: dict[str, Any]) -> dict[str, Any]:
    texts = {key: schema.pop(key) for key in ("title", "description") if key in schema}
    return texts | {"anyOf": [schema, INTERPOLATION]}


def _add_descriptions(whole: dict[str, Any]) -> None:
    sections: list[type[BaseModel]] = [RunConfig, *_all_sections(RunConfig)]
    for section in sections:
        found = whole if section is RunConfig else whole["$defs"].get(section.__name__, {})
        properties = found.get("properties", {})
        for name, schema in properties.items():
            if text := describe(section, name):
                schema["description"] = text


def _all_sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in section.model_fields.values():
        for inner in sections_of(field.annotation):
            yield inner
            yield from _all_sections(inner)


def editor_settings(conf: Path, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return VS Code's settings: which schema belongs to which files."""
    files: dict[str, list[str]] = {name: [] for name in schemas}
    for path in sorted(conf.rglob("*.yaml")):
        is_global = path.parent == conf or "@package _global_" in path.read_text(encoding="utf-8")[:200]
        schema = "train" if is_global else path.parent.name
        if schema in files:
            files[schema].append(f"conf/{path.relative_to(conf)}")
    return {"yaml.schemas": {f"./schema/{name}.json": found for name, found in files.items() if found}}


def main(root: Path = CHECKOUT) -> None:
    """Write the page, the schemas and the settings into a checkout."""
    conf, schemas = root / "conf", json_schemas(root / "conf")
    (root / "docs" / "config.md").write_text(config_page(conf), encoding="utf-8")
    (root / "schema").mkdir(exist_ok=True)
    for name, schema in schemas.items():
        (root / "schema" / f"{name}.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    print(f"written: docs/config.md, schema/ with {len(schemas)} schemas")
    settings = root / ".vscode" / "settings.json"
    if not settings.exists():
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(json.dumps(editor_settings(conf, schemas), indent=2) + "\n", encoding="utf-8")
        print("written: .vscode/settings.json")


if __name__ == "__main__":
    main()
