"""The words by which people find a run."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

MAX_TAGS = 50
TAG = re.compile(r"\w[\w .:-]{0,49}")
"""Form of a tag, which W&B and MLflow both take."""


def _check_tags(values: Any) -> Any:
    if not isinstance(values, list):
        raise ValueError("must be a list, as in tags=[baseline,char]")
    for value in values:
        if not (isinstance(value, str) and TAG.fullmatch(value)):
            raise ValueError(
                f"holds {value!r}: a tag has at most 50 letters, digits, spaces and _ . : -, and begins with a letter "
                "or digit; quote a number twice, as in 'tags=[\"1\"]'"
            )
        if values.count(value) > 1:
            raise ValueError(f"holds {value!r} twice; give it once")
    if len(values) > MAX_TAGS:
        raise ValueError(f"holds {len(values)} tags; give at most {MAX_TAGS}")
    return values


Tags = Annotated[list[str], BeforeValidator(_check_tags)]
