"""Loggers, one per file; `folio.config.logger` names them."""
