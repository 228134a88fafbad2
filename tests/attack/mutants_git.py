"""Checks against a hostile Git host and the registry's keys, each with the test that must fail without it.

An entry is (name, file, exact old text, new text, test). ``mutants.py`` runs them.
"""

from __future__ import annotations

SOURCE = "agent/muster_agent/source/repository.py"
CHILDREN = "agent/muster_agent/source/children.py"
AUTHORITY = "core/muster_core/trust/authority.py"
HEADS = "agent/muster_agent/trust/heads.py"
WIRE = "test_hostile_git_wire.py::"
REGISTRAR = "test_registrar_attacks.py::"

MUTANTS = [
    (
        "git-has-no-deadline", CHILDREN, "    if time.monotonic() > end:\n", "    if False:\n",
        WIRE + "test_a_host_that_holds_the_line_is_left_at_the_deadline[fetch-stall]",
    ),
    (
        "git-packs-have-no-bound", CHILDREN, "if fetched > bounds.fetched else", "if False else",
        WIRE + "test_a_pack_that_never_ends_is_stopped_by_its_size",
    ),
    (
        "git-answers-have-no-bound", CHILDREN, "    if answered > bounds.answered:\n", "    if False:\n",
        WIRE + "test_a_tree_that_unfolds_without_end_is_stopped",
    ),
    (
        "git-follows-redirects", CHILDREN, '("http", "followRedirects", "false")', '("http", "followRedirects", "true")',
        WIRE + "test_a_redirect_to_another_host_is_not_followed_and_nothing_is_told_to_it",
    ),
    (
        "git-reads-netrc", CHILDREN, '    "HOME": "/nonexistent",', '    "XHOME": "/nonexistent",',
        WIRE + "test_no_credentials_are_sent_even_when_they_are_asked_for",
    ),
    (
        "git-fetches-all-refs",
        SOURCE,
        '"--", self.url, *refs,',
        '"--", self.url, *refs, "+refs/*:refs/*",',
        WIRE + "test_refs_of_the_host_stay_out_of_the_repository",
    ),
    (
        "cut-history-is-whole", SOURCE, "error.status == NOT_AN_ANCESTOR and self._is_whole(commit, ancestor)",
        "error.status == NOT_AN_ANCESTOR", WIRE + "test_history_that_a_shallow_host_cuts_off_is_called_incomplete",
    ),
    (
        "packs-are-never-put-together", SOURCE, "                self._tidy()\n", "",
        WIRE + "test_two_heads_that_change_with_every_fetch_do_not_fill_the_disk",
    ),
    (
        "commits-of-any-size", SOURCE, "        if size > MAX_OBJECT:\n", "        if False:\n",
        WIRE + "test_a_commit_of_many_megabytes_is_not_read",
    ),
    (
        "an-installer-manages", AUTHORITY, 'any(role.scope == "manage" for role in held)', "bool(held)",
        REGISTRAR + "test_an_installers_key_does_not_change[a value]",
    ),
    (
        "an-installer-adds-twins", AUTHORITY, "return not twins and", "return",
        REGISTRAR + "test_an_installers_key_does_not_change[a twin of a UID]",
    ),
    (
        "an-installer-gives-any-label", AUTHORITY, "not twins and _may_have_labels(role, new) and", "not twins and",
        REGISTRAR + "test_an_installers_key_does_not_change[a label outside its selector]",
    ),
]  # fmt: skip
