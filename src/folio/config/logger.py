"""TODO folio.config.logger."""

from typing import Literal

from folio.config.section import Section


class LoggerConfig(Section):
    name: Literal["tensorboard", "csv", "none"]
