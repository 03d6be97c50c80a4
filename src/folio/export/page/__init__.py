"""One HTML file that shows in a browser how a trained model reads and writes: its weights are inside.

`architecture.py` says which models a page can hold, `weights.py` packs their weights, and `page.py` puts the parts
together. The page is `template.html`, `style.css` and `js/`, where `model.js` computes what `folio.models` computes.
"""
