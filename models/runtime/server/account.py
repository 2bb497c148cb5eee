"""Counts what a server was asked, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ServerAccount:
    """Requests, failures and tokens. Written by the engine's thread alone."""

    price_in_per_1k: float = 0.0
    price_out_per_1k: float = 0.0
    asked: int = 0
    failed: int = 0
    """Requests whose answer did not come, or could not be used for any of their regions."""
    cancelled: int = 0
    """Requests that ended because nobody waited for their captions any more."""
    unanswered: int = 0
    """Regions without a caption because of a failure."""
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def cost(self) -> float:
        """In the currency of the prices, from the `usage` of answers; cancelled ones have none."""
        paid = self.tokens_in * self.price_in_per_1k + self.tokens_out * self.price_out_per_1k
        return paid / 1000

    def text(self) -> str:
        """One line for the end of a run."""
        words = (
            f"{self.asked} requests, {self.failed} failed, {self.cancelled} cancelled; "
            f"{self.unanswered} regions without an answer; {self.tokens_in} tokens in, "
            f"{self.tokens_out} out"
        )
        has_price = self.price_in_per_1k or self.price_out_per_1k
        return f"{words}, cost {self.cost:.4f}" if has_price else words
