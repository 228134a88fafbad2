"""What the two sides of a link can do, as one number: each step stands here with its date.

Both say it when they meet; whatever one of them does not have yet, the other goes without.
"""

from __future__ import annotations

CAPABILITY = 1  # 2026-11-24: the first
