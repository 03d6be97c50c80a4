"""Tags and notes of a run."""

from collections.abc import Callable

import pytest

from folio.config.run import RunConfig


def test_tags_are_words(load: Callable[..., RunConfig]) -> None:
    config = load("tags=[baseline,second try,'größer',gpt-2.1:b]", "notes='a b'")
    assert config.tags == ["baseline", "second try", "größer", "gpt-2.1:b"]
    assert config.notes == "a b"
    assert load().tags == []
    assert load().notes is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tags=baseline", "tags=baseline must be a list, as in tags=[baseline,char]"),
        ("tags=null", "tags=null must be a list, as in tags=[baseline,char]"),
        ("tags=[1]", "holds 1: a tag has at most 50 letters"),
        ("tags=['']", "holds '': a tag has"),
        ("tags=['a/b']", "holds 'a/b': a tag has"),
        ("tags=['.']", "holds '.': a tag has"),
        (f"tags=[{'x' * 51}]", "a tag has at most 50 letters"),
        ("tags=[a,b,a]", "holds 'a' twice; give it once"),
        (f"tags=[{','.join(f't{n}' for n in range(51))}]", "holds 51 tags; give at most 50"),
        ("notes=''", "notes= must have at least 1 character"),
        ("notes=5", "notes=5 must be a valid string"),
        ("tag=[a]", "did you mean tags?"),
        ("note=x", "did you mean notes?"),
    ],
)
def test_bad_tags_and_notes_are_refused_in_one_line(typed: str, message: str, refuse: Callable[..., str]) -> None:
    line = refuse(typed)
    assert message in line
    assert "\n" not in line
