"""Checks that a coordinator in the attacker's hands, and attacks on joining, must run into: each taken out once.

Rows of (name, file, the text that is the check, what stands there without it, the test that must then fail).
"""

from __future__ import annotations

ADMISSION = "agent/muster_agent/admission.py"
RELEASES = "agent/muster_agent/trust/releases.py"
HEADS = "agent/muster_agent/trust/heads.py"
KEEPER = "agent/muster_agent/trust/keeper.py"
FLOORS = "agent/muster_agent/trust/floors.py"
MACHINE = "agent/muster_agent/reconcile/machine.py"
RUNNER = "agent/muster_agent/reconcile/runner.py"
MESSAGES = "agent/muster_agent/reconcile/messages.py"
RECOLLECTION = "coordinator/muster_coordinator/rollout/recollection.py"
CLIENT = "agent/muster_agent/link/client.py"
JOIN = "agent/muster_agent/identity/join.py"
DIRECTIVE = "core/muster_core/trust/directive.py"
TOKENS = "coordinator/muster_coordinator/enrol/tokens.py"
ENROLMENT = "coordinator/muster_coordinator/enrol/enrolment.py"
CLUSTERS = "coordinator/muster_cli/commands/clusters.py"
REGISTRY = "coordinator/muster_cli/trust/registry.py"
HUB = "test_hostile_coordinator.py::test_"
WIRE = "test_hostile_wire.py::test_"
JOINING = "test_joining_attacks.py::test_"

CONTENT = [
    (
        "content-is-not-judged",
        RELEASES,
        "            await self._content(release, content)\n",
        "            pass\n",
        f"{HUB}swapping_the_commit_for_a_draft_gains_nothing",
    ),
    (
        "tree-digest-is-not-compared",
        ADMISSION,
        "if contents.digests.get(release.bundle) != release.tree_digest:",
        "if False:",
        f"{HUB}swapping_the_tree_digest_gains_nothing",
    ),
    (
        "tree-digest-of-another-commit",
        ADMISSION,
        "if contents.digests.get(release.bundle) != release.tree_digest:",
        "if False:",
        f"{HUB}swapping_the_commit_and_not_its_digest_gains_nothing",
    ),
    (
        "policies-of-the-releases-commit",
        ADMISSION,
        "gate(self.policies, shown",
        "gate(compile_fleet_policies(contents), shown",
        f"{HUB}a_release_of_an_old_commit_is_judged_by_the_newest_policies",
    ),
    (
        "floors-are-not-asked",
        HEADS,
        "if floor and not await source.descends(commit, floor):",
        "if False:",
        f"{HUB}asking_to_go_back_below_the_floor_gains_nothing",
    ),
    (
        "an-acknowledgement-ends-floors",
        FLOORS,
        "        if commit and commit == self.floors.regressed:\n",
        "        self._put(msgspec.structs.replace(self.floors, bundles={}))\n        if commit:\n",
        f"{HUB}acknowledging_a_floor_on_its_own_takes_nobody_back",
    ),
    (
        "any-word-acknowledges-a-floor",
        FLOORS,
        "        if commit and commit == self.floors.regressed:\n",
        "        if self.floors.regressed:\n",
        f"{HUB}an_alarm_that_the_hub_raises_and_ends_itself_gains_only_silence",
    ),
    (
        "an-alarm-stops-nothing",
        ADMISSION,
        "        self._floors.require_whole()\n",
        "",
        f"{HUB}an_alarm_that_the_hub_raises_and_ends_itself_gains_only_silence",
    ),
    (
        "may-return-whatever-the-bundle-says",
        ADMISSION,
        'may_return=at.bundle.spec.rollback == "previous"',
        "may_return=True",
        f"{HUB}flipping_may_return_on_the_wire_returns_nobody",
    ),
    (
        "a-deadline-of-somebody-else",
        ADMISSION,
        "health_deadline=parse_duration(at.bundle.spec.health.deadline)",
        "health_deadline=1.0",
        f"{HUB}the_hubs_deadline_is_not_the_agents_verdict",
    ),
    (
        "returns-are-not-counted",
        MACHINE,
        ">= RETURNS_A_DAY:",
        ">= 1_000_000:",
        f"{HUB}offering_a_failed_release_again_and_again_gains_three_tries_a_day",
    ),
    (
        "the-same-attempt-counts-again",
        MACHINE,
        "if any(offer.attempt <= item.attempt for item in left):",
        "if False:",
        f"{HUB}offering_a_failed_release_again_and_again_gains_three_tries_a_day",
    ),
]
DIRECTIVES = [
    (
        "no-directive-is-asked-for",
        RELEASES,
        "if allowed is None and mode in NEEDS_DIRECTIVE:",
        "if False:",
        f"{HUB}an_offer_without_a_directive_is_refused_where_one_is_asked_for",
    ),
    (
        "signatures-of-directives-are-not-verified",
        DIRECTIVE,
        "    key = _signer(directive, signature, document, entry, now)\n",
        '    key = ""\n',
        f"{HUB}changing_a_signed_directive_breaks_it",
    ),
    (
        "anybody-may-direct",
        DIRECTIVE,
        "    key = _signer(directive, signature, document, entry, now)\n",
        "    key = verify_ssh(signature, statement(directive), namespace=SIGNATURE_NAMESPACE).fingerprint\n",
        f"{HUB}a_directive_by_a_stranger_is_refused",
    ),
    (
        "a-removed-operator-may-direct",
        DIRECTIVE,
        "    key = _signer(directive, signature, document, entry, now)\n",
        "    key = verify_ssh(signature, statement(directive), namespace=SIGNATURE_NAMESPACE).fingerprint\n",
        f"{JOINING}an_operators_key_is_worth_nothing_after_its_removal",
    ),
    (
        "directives-of-any-fleet",
        DIRECTIVE,
        "if directive.fleet != document.fleet:",
        "if False:",
        f"{HUB}a_directive_of_another_fleet_is_refused",
    ),
    (
        "directives-for-any-release",
        RELEASES,
        "if release not in (directive.release, directive.return_to):",
        "if False:",
        f"{HUB}a_directive_for_another_release_is_refused",
    ),
    (
        "directives-for-any-plan",
        DIRECTIVE,
        "if directive.plan_digest not in plans.values():",
        "if False:",
        f"{HUB}a_directive_for_another_plan_than_the_commits_is_refused",
    ),
    (
        "directives-for-any-cluster",
        DIRECTIVE,
        "if not _names(directive, entry, proof, now, is_late=is_late):",
        "if False:",
        f"{HUB}another_clusters_proof_is_refused",
    ),
    (
        "directives-never-expire",
        DIRECTIVE,
        "if now >= last_time:",
        "if False:",
        f"{HUB}an_expired_directive_is_refused_whatever_the_hub_says_of_the_time",
    ),
    (
        "directives-hold-before-their-time",
        ADMISSION,
        "if self._keeper.now() < not_before:",
        "if False:",
        f"{HUB}a_directive_that_does_not_hold_yet_waits_for_this_clusters_own_clock",
    ),
    (
        "directives-have-no-order",
        DIRECTIVE,
        "if directive.sequence < last.sequence or (directive.sequence == last.sequence and digest != last.digest):",
        "if False:",
        f"{HUB}replaying_an_old_directive_gains_nothing",
    ),
    (
        "going-back-was-allowed-for-ever",
        DIRECTIVE,
        "if directive.sequence < last.sequence or (directive.sequence == last.sequence and digest != last.digest):",
        "if False:",
        f"{HUB}replaying_a_directive_that_went_back_gains_nothing",
    ),
    (
        "directives-return-any-bundle",
        DIRECTIVE,
        "if back and back.bundle != bundle:",
        "if False:",
        f"{HUB}a_directive_for_one_bundle_returns_no_other",
    ),
    (
        "anybody-may-direct-by-an-honest-coordinator",
        DIRECTIVE,
        "    if not held:\n",
        "    if not held:\n        return key\n    if not held:\n",
        f"{JOINING}a_directive_of_a_stranger_goes_nowhere_by_an_honest_coordinator",
    ),
]
OPERATORS = [
    (
        "sealing-keys-are-approved-unproven",
        CLUSTERS,
        "if not verify(join.identity_key, statement, join.sealing_signature):",
        "if False:",
        f"{HUB}another_sealing_key_under_a_clusters_name_is_not_approved",
    ),
    (
        "sealers-take-any-registry",
        REGISTRY,
        "    _require_way(clone, document, floor, head)\n",
        "",
        f"{HUB}another_sealing_key_in_the_registry_is_not_sealed_to",
    ),
    (
        "names-are-approved-anew",
        CLUSTERS,
        "if old and (old.spec.uid != join.uid or old.spec.identity_key != identity):",
        "if False:",
        f"{HUB}another_identity_under_a_registered_name_is_not_approved",
    ),
    (
        "uids-are-approved-twice",
        CLUSTERS,
        "if other != name and (known.spec.uid == join.uid or known.spec.identity_key == identity):",
        "if False:",
        f"{HUB}another_identity_under_a_registered_name_is_not_approved",
    ),
    (
        "operators-sign-what-the-coordinator-names",
        "coordinator/muster_cli/trust/starting.py",
        "            release,\n            list(members(ground, bundle).values()),\n",
        "            release._replace(commit=view.current.commit, tree_digest=view.current.tree_digest),\n"
        "            list(members(ground, bundle).values()),\n",
        f"{HUB}what_is_signed_at_a_start_is_what_the_operator_has_checked_out",
    ),
    (
        "directives-of-any-number",
        "coordinator/muster_cli/trust/directing.py",
        "    if place[0] > MAX_SEQUENCE:\n",
        "    if False:\n",
        f"{HUB}a_number_that_uses_up_all_others_is_not_signed",
    ),
    (
        "anything-is-renewed",
        "coordinator/muster_cli/commands/directives.py",
        "            if clone.fleet().spec.mode in NEEDS_DIRECTIVE:\n",
        "            if False:\n",
        f"{HUB}a_release_that_nobody_directed_is_not_renewed",
    ),
]
LINE = [
    (
        "any-ca-will-do",
        CLIENT,
        "enrolment.ca_pem.encode(),",
        """(lambda host, port: __import__("ssl").get_server_certificate((host, int(port))).encode())(
            *address.rsplit(":", 1)
        ),""",
        f"{WIRE}a_coordinator_with_a_ca_of_its_own_is_not_talked_to",
    ),
    (
        "bundles-of-any-name",
        "agent/muster_agent/reconcile/messages.py",
        "_BUNDLE.match(release.bundle)",
        "release.bundle",
        f"{WIRE}an_offer_of_a_bundle_that_cannot_be_one_ends_no_agent",
    ),
    (
        "bundles-without-end",
        RUNNER,
        "MAX_BUNDLES = 500",
        "MAX_BUNDLES = 500_000",
        f"{WIRE}endless_small_frames_cost_neither_memory_nor_healing[bundle-5000]",
    ),
    (
        "a-new-token-moves-a-joined-agent",
        JOIN,
        "if known is not None and (known.certificate or token is None):",
        "if known is not None and token is None:",
        f"{WIRE}a_token_that_the_coordinator_minted_moves_no_agent_that_has_joined",
    ),
    (
        "any-trust-document-is-the-first",
        KEEPER,
        """            if signed.document.digest == self._enrolment.trust_digest:
                document = accept_first(
                    signed, fleet=self._enrolment.fleet_id, digest=self._enrolment.trust_digest
                )
""",
        """            if True:
                document = accept_first(
                    signed, fleet=self._enrolment.fleet_id, digest=signed.document.digest
                )
""",
        f"{WIRE}a_coordinator_that_mints_a_token_for_its_own_trust_gets_no_agent_of_the_operators",
    ),
    (
        "git-is-looked-at-only-when-told",
        RUNNER,
        "with anyio.move_on_after(poll):",
        "with anyio.CancelScope():",
        f"{WIRE}withholding_everything_stops_neither_healing_nor_trust",
    ),
    (
        "frames-of-any-size",
        CLIENT,
        '("grpc.max_receive_message_length", 4 << 20)',
        '("grpc.max_receive_message_length", -1)',
        f"{WIRE}a_frame_of_a_gigabyte_costs_neither_memory_nor_healing",
    ),
]
TOKEN = [
    (
        "tokens-work-again",
        TOKENS,
        "if token.used and (token.identity != identity or renewed):",
        "if False:",
        f"{JOINING}a_token_that_was_used_gives_another_cluster_nothing",
    ),
    (
        "stolen-tokens-work-for-two",
        TOKENS,
        "if token.used and (token.identity != identity or renewed):",
        "if False:",
        f"{JOINING}a_stolen_token_used_first_shows_other_fingerprints_and_gives_nothing",
    ),
    (
        "tokens-work-for-any-name",
        TOKENS,
        "if token.cluster != name:",
        "if False:",
        f"{JOINING}a_token_for_one_cluster_makes_no_other",
    ),
    (
        "certificates-for-any-identity",
        ENROLMENT,
        "if entry.spec.identity_key != encode_identity(row.identity) or entry.spec.uid != row.uid:",
        "if False:",
        f"{JOINING}another_identity_under_a_registered_name_gets_no_certificate",
    ),
    (
        "counters-may-repeat",
        ENROLMENT,
        "if counter is not None and counter <= highest:",
        "if False:",
        f"{JOINING}a_cloned_agent_is_found_out_by_its_counter",
    ),
    (
        "floors-are-kept-in-one-place",
        FLOORS,
        "for name, commit in [*mirror.bundles.items(), *(await self._parents()).items()]:",
        "for name, commit in list[tuple[str, str]]():",
        f"{JOINING}an_old_volume_alone_is_mended_from_the_clusters_own_copy",
    ),
    (
        "a-coordinator-starts-what-is-not-the-newest",
        "coordinator/muster_coordinator/api/operator.py",
        "if request.commit and not head.startswith(request.commit):",
        "if False:",
        f"{JOINING}a_coordinators_database_of_last_week_takes_nobody_back",
    ),
    (
        "trust-never-expires",
        RELEASES,
        "        self._keeper.require_current()\n",
        "",
        f"{JOINING}an_expired_trust_document_stops_what_is_new_and_not_healing",
    ),
]
WORDS = [
    (
        "names-in-the-place-of-commits",
        RELEASES,
        "if not COMMIT_ID.fullmatch(release.commit):",
        "if False:",
        f"{HUB}a_name_in_the_place_of_a_commit_gains_nothing[refs/muster/remote/main]",
        ((MESSAGES, "        and _COMMIT.match(release.commit)\n", ""),),
    ),
    (
        "a-good-bye-of-any-length",
        "core/muster_core/session/backoff.py",
        "self.maximum = min(max(minimum, maximum), LONGEST)",
        "self.maximum = max(minimum, maximum)",
        f"{WIRE}a_good_bye_until_the_end_of_time_is_a_short_one",
        (
            (
                "core/muster_core/session/backoff.py",
                "self.minimum = min(max(0.1, minimum), LONGEST)",
                "self.minimum = minimum",
            ),
        ),
    ),
    (
        "a-welcome-of-any-number",
        "agent/muster_agent/link/session.py",
        "        if welcome.last_agent_seq > self._outbox.newest + MAX_AHEAD:\n",
        "        if False:\n",
        f"{WIRE}a_welcome_with_anothers_numbers_silences_no_report[18446744073709551615]",
    ),
    (
        "acknowledgements-of-the-future-count",
        "core/muster_core/session/outbox.py",
        "        self.acked = max(self.acked, min(seq, self._next - 1))\n",
        "        self.acked = self._next = max(self._next, seq + 1)\n",
        f"{WIRE}acknowledgements_of_what_was_never_said_silence_no_report[18446744073709551615]",
    ),
    (
        "nothing-is-healed-while-an-offer-waits",
        MACHINE,
        "(not self._admitting or self._applied)",
        "not self._admitting",
        f"{WIRE}an_offer_that_nobody_can_take_does_not_stop_healing",
    ),
    (
        "floors-that-were-never-here-are-alarms",
        ADMISSION,
        "            return bool(self._started_with)  #",
        "            return True  #",
        f"{WIRE}another_clusters_welcome_raises_no_alarm_and_moves_no_floor",
    ),
    (
        "floors-are-not-held-against-what-was-reported",
        ADMISSION,
        "if reported and reported != own and await self._is_behind(own, reported):",
        "if False:",
        f"{JOINING}an_old_volume_of_an_agent_takes_nothing_new_until_an_operator_knows",
    ),
    (
        "a-database-may-go-back",
        RECOLLECTION,
        "        if epoch == hello.session_epoch:\n",
        "        if False:\n",
        f"{JOINING}a_coordinators_database_of_last_week_raises_an_alarm_until_somebody_knows",
    ),
    (
        "every-new-database-is-an-attack",
        RECOLLECTION,
        "        if epoch == hello.session_epoch:\n",
        "        if True:\n",
        f"{JOINING}a_coordinator_without_its_database_is_rebuilt_and_calls_nobody_an_attacker",
    ),
]
MUTANTS = [*CONTENT, *DIRECTIVES, *OPERATORS, *LINE, *TOKEN, *WORDS]
