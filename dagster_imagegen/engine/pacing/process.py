"""The limits that belong to this process, whatever passes send in it."""

import hashlib
import math
import threading


class Pace:
    """When the last request was sent to one endpoint with one key. Safe for several threads.

    Its times are those of `time.monotonic`, as are those of every real event loop.

    Where passes have different gaps, the one with the longest would never find one among the
    others' requests. So for these it waits no longer than one gap beyond its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began_at = math.inf
        self._sent_at: dict[float, float] = {}
        """The last request of passes with this gap."""

    def next_at(self, gap_seconds: float) -> float:
        """When one more may be sent, `gap_seconds` after the last; at once, where that is 0."""
        with self._lock:
            return self._next_at(gap_seconds)

    def _next_at(self, gap: float) -> float:
        if not gap or not self._sent_at:
            return -math.inf
        alike = [at for each, at in self._sent_at.items() if each >= gap]
        last = max(alike, default=-math.inf)
        patience_ends = max(alike, default=self._began_at) + 2 * gap
        return max(last + gap, min(max(self._sent_at.values()) + gap, patience_ends))

    def take(self, gap_seconds: float, now: float, *, early_seconds: float) -> bool:
        """Count one more request, unless one of another thread has just come before it.

        Args:
            gap_seconds: At least between two requests.
            now: The time.
            early_seconds: By so much it may come too early.
        """
        with self._lock:
            if now + early_seconds < self._next_at(gap_seconds):
                return False
            self._began_at = min(self._began_at, now)
            self._sent_at[gap_seconds] = max(self._sent_at.get(gap_seconds, -math.inf), now)
            return True


class Paces:
    """The pace of each endpoint and key, for as long as this object lives.

    One is a time and a lock, so none is ever dropped: a pass may hold it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_account: dict[str, Pace] = {}

    def of(self, url: str, api_key: str | None) -> Pace:
        """The pace of an endpoint and a key. Neither is kept, only a digest of both.

        Args:
            url: The normalised URL of the endpoint.
            api_key: Of the account whose limit it is.
        """
        account = hashlib.sha256(f"{url}\0{api_key or ''}".encode(errors="replace")).hexdigest()
        with self._lock:
            return self._by_account.setdefault(account, Pace())


OF_THIS_PROCESS = Paces()
"""The endpoints count what this process sends, so it lives as long as the process."""
