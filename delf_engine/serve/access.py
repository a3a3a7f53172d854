"""Who has the token: programs send it with each request, a browser once, and then a cookie that is made of it."""

from __future__ import annotations

import hashlib
import hmac
import math
import threading
import time
from collections import deque

from delf_engine.serve.problems import Refused

#: The cookie's name; it works for a day.
COOKIE = "delf-engine"
COOKIE_SECONDS = 24 * 3600
_ATTEMPTS, _ATTEMPT_SECONDS = 10, 60.0


class Access:
    """Knows a token, and the cookies made of it.

    A cookie is the time when it ends, signed by a key that only the token leads to. It does not hold the token;
    all servers of one token accept it, and it ends with the token.
    """

    def __init__(self, token: str) -> None:
        self._digest = _digest(token)
        # Slow on purpose: a cookie that was read must not help to guess the token.
        self._key = hashlib.scrypt(token.encode(), salt=b"delf-engine cookie", n=1 << 14, r=8, p=1)
        self._wrong: deque[float] = deque(maxlen=_ATTEMPTS)  # when wrong tokens were typed
        self._typing = threading.Lock()

    def is_token(self, given: str) -> bool:
        """Tell whether this is the token, in constant time."""
        return hmac.compare_digest(_digest(given), self._digest)

    def log_in(self, given: str) -> str:
        """Return a new cookie for the token.

        `Refused` for any other (401), and whatever is given after ten wrong ones within a minute (429).
        """
        with self._typing:
            now = time.monotonic()
            left = self._wrong[0] + _ATTEMPT_SECONDS - now if len(self._wrong) == _ATTEMPTS else 0.0
            if left > 0:
                raise Refused(429, "many_attempts", "too many wrong tokens", retry_after=math.ceil(left))
            if not self.is_token(given):
                self._wrong.append(now)
                raise Refused(401, "wrong_token", "this is not the token of the server")
        return self.cookie()

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
