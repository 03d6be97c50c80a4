"""The `logger` section of the config."""

from typing import Literal

from folio.config.section import Section


class LoggerConfig(Section):
    """Where curves are written."""

    name: Literal["tensorboard", "csv", "none"]
