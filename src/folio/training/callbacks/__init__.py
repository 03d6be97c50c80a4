"""Lightning callbacks, one subject per file. `folio.training.assembly` has their order."""
