"""Attacks for which no check of ours can be taken out, each with the reason.

The suite (tests/unit/test_attacks_are_proven.py) asks that every attack's test is named here or by a mutant.
"""

from __future__ import annotations

GIT = "git itself refuses it, at the end of a broken answer; a check of ours that could be taken out does not exist"
NOTHING = "there is no code that would do it, so there is none that keeps from it"
CONTROL = "a control: what is allowed must go on working"
HOST = "test_hostile_git_host.py::test_"
WIRE = "test_hostile_git_wire.py::test_"

# What an operator's commands make of a coordinator that lies: the test of it, or the function that other tests prove.
OPERATORS = {
    "cluster approve": "test_hostile_coordinator.py::test_another_identity_under_a_registered_name_is_not_approved",
    "secret seal": "test_hostile_coordinator.py::test_another_sealing_key_in_the_registry_is_not_sealed_to",
    "rollout start": "test_hostile_coordinator.py::test_what_is_signed_at_a_start_is_what_the_operator_has_checked_out",
    "directive renew": "test_hostile_coordinator.py::test_a_release_that_nobody_directed_is_not_renewed",
    # Asks no coordinator: what it signs is judged by judge_content, as agents judge it.
    "release sign": "test_hostile_git_host.py::test_a_head_whose_paths_exceed_the_signers_role_is_refused",
}
UNREMOVABLE = {
    WIRE + "a_pack_that_breaks_off_is_not_taken": GIT,
    WIRE + "a_ref_to_a_commit_that_is_never_sent_gives_nothing": GIT,
    WIRE + "grafts_and_alternates_of_the_host_are_its_own_affair": GIT,
    WIRE + "a_host_of_files_sends_nobody_to_another_host": GIT,
    WIRE + "a_list_of_refs_that_never_ends_is_stopped": (
        "without the bound on a child's memory the test would fill the machine that it runs on"
    ),
    HOST + "attributes_and_hooks_of_the_repository_change_nothing": (
        "nothing is checked out: blobs are read by their ids, so no attribute or hook is ever asked"
    ),
    "test_hostile_wire.py::test_bytes_that_are_no_message_end_the_session_and_nothing_more": (
        "gRPC itself ends a stream at bytes that it cannot read"
    ),
    "test_hostile_wire.py::test_an_offer_without_anything_ends_no_agent": (
        "with every check of its form out it is an offer of a commit that is not there, and is refused as one"
    ),
    "test_registrar_attacks.py::test_every_bundle_deleted_prunes_nothing": NOTHING,
    "test_registrar_attacks.py::test_an_installers_key_adds_what_it_may": CONTROL,
}
