"""Folio from Python: `folio.load` opens a trained model, `folio.train` trains one as the command line does."""
