"""The texts that `data=...` can name. Any other text is a file of the user: data=text_file data.path=my.txt."""

from folio.data.assets import Asset
from folio.data.corpora import tiny_shakespeare

NAMED_TEXTS: dict[str, Asset] = {
    "tiny_shakespeare": tiny_shakespeare.ASSET,
}
"""UTF-8 texts by name, the same everywhere. A new one is added here."""
