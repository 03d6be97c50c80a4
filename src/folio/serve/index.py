"""The page at `/`: the models and the addresses of the API."""

from html import escape

from starlette.responses import HTMLResponse

from folio.serve.models import ServedModels

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Folio</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 50rem; padding: 0 1rem }}
td, th {{ padding: .2rem 1rem .2rem 0; text-align: left }}
</style>
</head>
<body>
<h1>Folio</h1>
<table>
<tr><th>model<th>parameters<th>context<th>tokenizer<th>step</tr>
{rows}
</table>
<p>OpenAI's API: <code>/v1/completions</code>, <code>/v1/chat/completions</code>,
<a href="/v1/models"><code>/v1/models</code></a>; <a href="/health"><code>/health</code></a>.
</body>
</html>
"""


def index_page(models: ServedModels) -> HTMLResponse:
    """Return the page."""
    rows = "\n".join(
        f"<tr><td>{escape(served.id)}<td>{served.model.n_parameters:,}<td>{served.context_length:,}"
        f"<td>{escape(served.tokenizer.name)}<td>{served.step:,}</tr>"
        for served in models
    )
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(PAGE.format(rows=rows), headers=headers)
