"""Who has the token: programs send it with each request, a browser once, and then a cookie that is made of it."""

from __future__ import annotations

import hashlib
import hmac
import time

#: The cookie's name; it works for a day.
COOKIE = "delf-engine"
COOKIE_SECONDS = 24 * 3600


class Access:
    """Knows a token, and the cookies made of it.

    A cookie is the time when it ends, signed by a key that only the token leads to. It does not hold the token;
    all servers of one token accept it, and it ends with the token.
    """

    def __init__(self, token: str) -> None:
        self._digest = _digest(token)
        # Slow on purpose: a cookie that was read must not help to guess the token.
        self._key = hashlib.scrypt(token.encode(), salt=b"delf-engine cookie", n=1 << 14, r=8, p=1)

    def is_token(self, given: str) -> bool:
        """Tell whether this is the token, in constant time."""
        return hmac.compare_digest(_digest(given), self._digest)

    def cookie(self) -> str:
        """Return the value of a new cookie."""
        return self._signed(str(int(time.time()) + COOKIE_SECONDS))

    def is_cookie(self, given: str) -> bool:
        """Tell whether this is the value of a cookie that has not ended, in constant time."""
        until, _, _ = given.partition(".")
        if not hmac.compare_digest(_digest(given), _digest(self._signed(until))):
            return False
        return time.time() < int(until)

    def _signed(self, until: str) -> str:
        mac = hmac.new(self._key, until.encode("utf-8", "surrogateescape"), "sha256")
        return f"{until}.{mac.hexdigest()}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()  # of one length, whatever was sent
