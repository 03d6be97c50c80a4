"""The policy of the web pages that Folio writes: they hold all they need, and ask no one for anything."""

import base64
import hashlib


def content_security_policy(style: str, script: str, *allowed: str) -> str:
    """Return a policy that allows this style, this script, images inside the page, and `allowed`; no request.

    Source: W3C, Content Security Policy Level 3.

        >>> content_security_policy("a {}", "f()", "worker-src blob:").partition(";")[0]
        "default-src 'none'"
    """
    sources = (f"style-src {_hash_source(style)}", f"script-src {_hash_source(script)}", *allowed)
    return "; ".join(("default-src 'none'", "img-src data:", *sources, "base-uri 'none'", "form-action 'none'"))


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
