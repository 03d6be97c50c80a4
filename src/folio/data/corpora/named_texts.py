"""Which texts can be trained on by name. Any other is a file of one's own: data=text_file data.path=my.txt."""

from folio.data.assets import Asset
from folio.data.corpora import tiny_shakespeare

TEXT_FILE = "text_file"

NAMED_TEXTS: dict[str, Asset] = {
    "tiny_shakespeare": tiny_shakespeare.ASSET,
}
"""data.name -> a UTF-8 text that is the same everywhere. A new one is entered here."""
