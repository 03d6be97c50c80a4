"""docs/config.md and the JSON schemas are those of the config's schema."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from folio.cli import config_page
from folio.cli.config_page import describe, editor_settings, json_schemas, sections_of, type_text
from folio.config.run import RunConfig

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SCHEMAS = json_schemas(CONF)
FILES = [
    (name, ROOT / file) for name, files in editor_settings(CONF, SCHEMAS)["yaml.schemas"].items() for file in files
]


def test_the_page_is_current() -> None:
    message = "docs/config.md is not what the schema says: run `make schema`, and commit it"
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == config_page.config_page(CONF), message


def keys_without_a_meaning(section: Any, prefix: str = "") -> list[str]:
    missing = []
    for name, field in section.model_fields.items():
        inner = sections_of(field.annotation)
        selects = name == "name" and "Literal" in str(field.annotation)
        if not inner and not selects and not describe(section, name):
            missing.append(f"{prefix}{name} ({section.__name__})")
        for part in inner:
            missing += keys_without_a_meaning(part, f"{prefix}{name}.")
    return missing


def test_every_key_has_a_meaning() -> None:
    """A docstring below its field."""
    assert not keys_without_a_meaning(RunConfig)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 2**31 - 1}, "integer > 0"),
        (
            {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0}]},
            "number ≥ 0, < 1, or null",
        ),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "boolean"}, "`true`, `false`"),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**32}, "integer ≥ 0, < 4294967296"),
    ],
)
def test_a_type_in_words(schema: dict[str, Any], text: str) -> None:
    assert type_text(schema) == text


def allows(schema: Any, value: Any, definitions: dict[str, Any]) -> bool:
    """Return whether a schema knows all the keys of a value, and its enumerated words."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return any(allows(member, value, definitions) for member in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema.get("pattern") == r"\$\{":
        return "${" in str(value)
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        return all(name in known and allows(known[name], inner, definitions) for name, inner in value.items())
    names = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    return schema.get("type") not in names or isinstance(value, names[schema["type"]])


@pytest.mark.parametrize(("name", "file"), FILES, ids=lambda value: getattr(value, "stem", None))
def test_every_file_of_conf_fits_its_schema(name: str, file: Path) -> None:
    schema = SCHEMAS[Path(name).stem]
    assert allows(schema, yaml.safe_load(file.read_text()) or {}, schema["$defs"])


def test_a_schema_refuses_a_misspelt_key_and_allows_a_part() -> None:
    schema = SCHEMAS["train"]
    assert allows(schema, {"optimizer": {"learning_rate": "${x}"}}, schema["$defs"])
    assert not allows(schema, {"optimizer": {"learnig_rate": 0.1}}, schema["$defs"])
    assert not allows(schema, {"model": {"norm": "layernorm"}}, schema["$defs"])


def test_make_schema_writes_everything_and_keeps_settings(tmp_path: Path) -> None:
    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "docs").mkdir()
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode" / "settings.json").write_text("{}")
    config_page.main(tmp_path)
    assert (tmp_path / "docs" / "config.md").is_file()
    assert {path.stem for path in (tmp_path / "schema").glob("*.json")} == set(SCHEMAS)
    assert (tmp_path / ".vscode" / "settings.json").read_text() == "{}"


def test_bash_completes_train_and_the_scripts() -> None:
    ask = """
    source scripts/completion.bash
    ask() {
        COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _folio_complete
        echo "${COMPREPLY[*]}"
    }
    """
    program = f'{ask} ask {sys.executable} train.py optimizer=a; ask {sys.executable} scripts/evaluate.py --split ""'
    said = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["optimizer=adam optimizer=adamw", "train val test"]
