"""The `logger` section of the config."""

from typing import Annotated

from pydantic import BeforeValidator

from folio.config.section import Arguments, Name, without_null

Loggers = Annotated[dict[Name, Arguments], BeforeValidator(without_null)]
"""Arguments of each logger, by the name of its file in conf/logger."""
