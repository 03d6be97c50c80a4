"""The texts that `data=...` can name. Any other text is a file of the user: data=text_file data.path=my.txt."""

from dataclasses import dataclass

from folio.data.assets import Asset
from folio.data.corpora import tiny_shakespeare
from folio.data.corpora.text import Places, train_and_val


@dataclass(frozen=True)
class PublishedText:
    """A UTF-8 text that is the same everywhere, and where its splits are."""

    asset: Asset
    places: Places = train_and_val

    @property
    def has_test(self) -> bool:
        return "test" in self.places(1000)


NAMED_TEXTS: dict[str, PublishedText] = {
    "tiny_shakespeare": PublishedText(tiny_shakespeare.ASSET),
    "tiny_shakespeare_dev": PublishedText(tiny_shakespeare.ASSET, tiny_shakespeare.dev_splits),
}
"""Texts by name. A new one is added here."""
