"""Who approved what: Git objects as they were signed, and the signatures on them (DESIGN §6)."""
