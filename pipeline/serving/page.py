"""The page to try a model in a browser: one file, which fetches nothing but the service itself."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash_block(tag: str) -> str:
    """Return the hash of the script or the style of the page, which its policy allows instead of any other."""
    block = re.search(f"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
    assert block is not None
    digest = base64.b64encode(hashlib.sha256(block.group(1).encode()).digest()).decode()
    return f"'sha256-{digest}'"


HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash_block('script')}; style-src {_hash_block('style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of the page; the policy stops every request to another host, and every other script."""
