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
HOST = "test_hostile_git_host.py::"
ADMISSION = "agent/muster_agent/admission.py"
RELEASE = "core/muster_core/release.py"
KEEPER = "agent/muster_agent/trust/keeper.py"
FLOORS = "agent/muster_agent/trust/floors.py"

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
    (
        "heads-below-the-floor", HEADS, "if floor and not await source.descends(commit, floor):", "if False:",
        HOST + "test_a_rewound_branch_takes_nothing_back",
    ),
    (
        "heads-beside-the-floor", HEADS, "if floor and not await source.descends(commit, floor):", "if False:",
        HOST + "test_a_rewritten_history_is_refused_even_when_a_releaser_signed_it",
    ),
    (
        "any-repository-of-the-signers", HEADS, "if anchor and not await source.descends(commit, anchor):", "if False:",
        HOST + "test_another_repository_signed_by_the_same_key_is_refused",
    ),
    (
        "floors-are-not-read-from-the-secret", FLOORS, "_decoded(await self._api.get(self._secret()))", "Floors()",
        HOST + "test_a_replay_of_an_older_signed_commit_after_the_state_was_lost_gains_nothing",
    ),
    (
        "unsigned-heads", KEEPER, "        if not found and problem is not None:", "        if False:",
        HOST + "test_an_unsigned_head_is_refused",
    ),
    (
        "strangers-are-signers", AUTHORITY, "if not any(key.fingerprint == fingerprint for key in keys):", "if False:",
        HOST + "test_a_head_signed_by_a_stranger_is_refused",
    ),
    (
        "paths-beyond-the-role", AUTHORITY,
        "            raise not_covered(change, signers, document, now)", "            continue",
        HOST + "test_a_head_whose_paths_exceed_the_signers_role_is_refused",
    ),
    (
        "tags-of-any-name", KEEPER, 'if tag.name != name or (tag.target, tag.target_kind) != (commit, "commit"):',
        'if (tag.target, tag.target_kind) != (commit, "commit"):',
        HOST + "test_a_tag_object_under_another_name_approves_nothing",
    ),
    (
        "tags-of-any-commit", KEEPER, 'if tag.name != name or (tag.target, tag.target_kind) != (commit, "commit"):',
        "if tag.name != name:", HOST + "test_a_tag_moved_to_another_commit_approves_nothing",
    ),
    (
        "paths-of-any-form", SOURCE, "            if not _sound(path):", "            if False:",
        HOST + "test_a_path_that_leads_out_of_the_tree_is_refused",
    ),
    (
        "files-of-any-size", SOURCE, "and int(size) <= MAX_BLOB_BYTES:", "and int(size) >= 0:",
        HOST + "test_a_file_of_many_megabytes_refuses_its_release",
        ((RELEASE, "            if len(data) > MAX_BYTES:\n", "            if False:\n"),),
    ),
    (
        "floors-are-not-read-from-parents", FLOORS, "*(await self._parents()).items()]", "]",
        HOST + "test_floors_come_back_from_parents_when_their_secret_is_lost_too",
    ),
    (
        "parents-name-only-what-grows", "agent/muster_agent/cluster/apply.py",
        "if grows or ((desired or applied) and not self._is_noted(bundle, note)):", "if grows:",
        HOST + "test_floors_come_back_from_parents_when_their_secret_is_lost_too",
    ),
    (
        "heads-beside-the-floor-now-and-then", HEADS,
        "if floor and not await source.descends(commit, floor):", "if False:",
        HOST + "test_two_heads_that_change_with_every_question_move_nothing",
    ),
    (
        "tags-without-an-object", KEEPER, "        if not found and problem is not None:", "        if False:",
        HOST + "test_a_lightweight_tag_approves_nothing",
        (
            (
                AUTHORITY, "            raise not_covered(change, signers, document, now)",
                "            continue",
            ),
        ),
    ),
    (
        "signatures-of-any-bytes", "core/muster_core/trust/sshsig.py",
        "    except InvalidSignature:\n        raise _Refused(\"it was not made over these bytes\") from None\n",
        "    except InvalidSignature:\n        pass\n",
        HOST + "test_a_signature_moved_to_another_tree_is_refused",
    ),
    (
        "replacements-are-followed", CHILDREN, '    "GIT_NO_REPLACE_OBJECTS": "1",\n', "",
        HOST + "test_a_replacement_of_a_good_commit_changes_nothing",
        ((SOURCE, '"--", self.url, *refs,', '"--", self.url, *refs, "+refs/replace/*:refs/replace/*",'),),
    ),
    (
        "links-are-read-as-files", SOURCE, "if mode not in (SUBMODULE, SYMLINK) and int(size) <= MAX_BLOB_BYTES:",
        "if mode != SUBMODULE and int(size) <= MAX_BLOB_BYTES:",
        HOST + "test_a_link_or_a_submodule_in_a_bundle_refuses_its_release[120000-/etc/passwd]",
        ((RELEASE, "        if file.mode in (SYMLINK, SUBMODULE):", "        if False:"),),
    ),
    (
        "a-registry-is-forgotten-when-it-vanishes", ADMISSION,
        """        if not heads.registry or (heads.registry == known and self.entry is not None):
            return
""",
        """        if not heads.registry:
            await self._floors.raise_branch("registry", "")
        if not heads.registry or (heads.registry == known and self.entry is not None):
            return
""",
        HOST + "test_a_registry_that_vanishes_is_no_reason_to_forget_it",
    ),
    (
        "any-certificate-of-a-git-host", CHILDREN, '    ("gc", "auto", "0"),',
        '    ("gc", "auto", "0"),\n    ("http", "sslVerify", "false"),',
        WIRE + "test_a_host_with_another_certificate_is_not_talked_to",
    ),
    (
        "packs-of-any-size", CHILDREN, "if fetched > bounds.fetched else", "if False else",
        WIRE + "test_a_pack_that_is_too_big_is_stopped_and_leaves_nothing",
    ),
    (
        "an-installer-changes-values", AUTHORITY, "return grows and _mean_the_same(same, old) and", "return grows and",
        REGISTRAR + "test_an_installers_key_does_not_change[a value]",
    ),
    (
        "an-installer-brings-revoked-clusters-back", AUTHORITY,
        "return grows and _mean_the_same(same, old) and", "return grows and",
        REGISTRAR + "test_an_installers_key_does_not_change[a revoked cluster again]",
    ),
    (
        "an-installer-adds-sealing-keys-of-anybody", AUTHORITY,
        "and _mean_the_same(same, old) and _sealing_keys_are_its_own(new, fleet)", "and _mean_the_same(same, old)",
        REGISTRAR + "test_an_installers_key_does_not_change[a sealing key that the identity did not sign]",
    ),
    (
        "bundles-that-do-not-target", ADMISSION, "        if values is None:\n", "        if values is None and False:\n",
        REGISTRAR + "test_a_flipped_label_prunes_nothing[flipped]",
    ),
    (
        "an-entry-that-is-gone-is-taken", ADMISSION,
        "            raise self._no_entry()\n        if entry.spec.revoked:",
        "            return None  # type: ignore[return-value]\n        if entry.spec.revoked:",
        REGISTRAR + "test_an_entry_that_is_removed_prunes_nothing",
    ),
    (
        "registrars-sign-content", AUTHORITY, "        if role.role in names\n", "        if True\n",
        REGISTRAR + "test_a_registrars_key_on_the_main_branch_is_refused",
    ),
]  # fmt: skip
