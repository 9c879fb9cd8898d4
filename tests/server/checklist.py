"""Which test proves which line of the server checklist (clients.md section 10).

Rule 1: a test `test_item_NN_...` or `test_items_NN_and_NN_...` of `test_checklist_*.py` proves the items that its name
        says; `PROVEN` names the tests elsewhere that prove others. Together they are all 83.
Rule 2: what is answered otherwise than the list says, or is not built, is in `DECIDED` with the reason; `SEEN` names
        the tests of such a decision that are elsewhere.
"""

from __future__ import annotations

ALL = range(1, 84)

PROVEN: dict[int, tuple[str, ...]] = {
    1: ("server/test_frame.py::test_ping",),
    2: ("server/test_frame.py::test_every_answer_has_the_api_version_and_no_framework_header",),
    3: (
        "server/test_frame.py::test_every_answer_has_the_api_version_and_no_framework_header",
        "server/test_traps.py::test_traps_09_and_10_who_logs_in_is_nobody",
    ),
    4: (
        "server/test_frame.py::test_pipelining_two_requests",
        "server/test_frame.py::test_keep_alive_of_old_and_new_clients",
    ),
    5: ("server/test_frame.py::test_tls_hello", "server/test_traps.py::test_trap_04_a_tls_hello_is_refused_at_once"),
    6: ("server/test_frame.py::test_long_headers",),
    7: ("server/test_traps.py::test_trap_08_nothing_is_compressed",),
    9: ("server/test_frame.py::test_head_equals_get",),
    11: (
        "server/test_sending.py::test_failure_after_the_head_cuts",
        "mirror/test_blobs.py::test_wrong_bytes_never_come_whole",
    ),
    12: (
        "server/test_traps.py::test_trap_03_open_ended_ranges_with_hang_ups",
        "server/test_sending.py::test_client_that_leaves",
        "mirror/test_blobs.py::test_a_reader_that_leaves_changes_nothing",
    ),
    14: ("server/test_frame.py::test_every_answer_has_the_api_version_and_no_framework_header",),
    16: ("server/test_frame.py::test_absolute_form_and_any_host",),
    17: ("server/test_hostile.py::test_hostile_targets", "oci/test_request.py::test_hostile"),
    18: ("server/test_contents.py::test_manifest_by_digest",),
    19: ("server/test_frame.py::test_methods",),
    20: ("server/test_sending.py::test_slow_reader_is_served", "server/test_sending.py::test_stalled_reader_is_cut"),
    21: ("mirror/test_tags.py::test_a_hundred_first_requests_cost_one",),
    22: (
        "mirror/test_tags.py::test_by_digest_the_bytes_decide",
        "mirror/test_tags.py::test_a_bad_answer_makes_no_pin_and_heals",
    ),
    24: ("server/test_contents.py::test_manifest_by_digest", "server/test_contents.py::test_manifest_by_sha512"),
    25: ("server/test_contents.py::test_not_modified_only_on_request",),
    26: ("server/test_traps.py::test_trap_01_several_accept_lines_in_any_order",),
    32: ("mirror/test_tags.py::test_attachment_tags_are_never_pins",),
    34: ("server/test_traps.py::test_trap_03_a_manifest_by_range",),
    35: (
        "server/test_contents.py::test_drift_is_told",
        "mirror/test_drift.py::test_deny_refuses_a_drifted_tag",
        "server/test_refusal.py::test_runtimes_get_the_refusal_manifest",
    ),
    36: ("mirror/test_drift.py::test_deny_refuses_a_drifted_tag",),
    37: ("server/test_contents.py::test_blob",),
    38: (
        "store/test_store_follow.py::test_the_tail_is_withheld",
        "mirror/test_blobs.py::test_wrong_bytes_never_come_whole",
    ),
    39: (
        "mirror/test_blobs.py::test_a_blob_is_fetched_once",
        "store/test_store_follow.py::test_two_workers_share_one_transfer",
    ),
    40: (
        "server/test_ranges.py::test_over_the_wire",
        "server/test_ranges.py::test_unsatisfiable",
        "server/test_ranges.py::test_select_agrees_with_slicing",
    ),
    41: (
        "server/test_ranges.py::test_over_the_wire",
        "server/test_traps.py::test_trap_03_open_ended_ranges_with_hang_ups",
    ),
    42: ("server/test_ranges.py::test_item_42_several_ranges",),
    43: ("server/test_ranges.py::test_if_range",),
    44: ("server/test_contents.py::test_empty_blob", "server/test_lane_states.py::test_heads_and_empty_bodies"),
    47: ("mirror/test_blobs.py::test_private_content_is_reachable_only_through_its_repository",),
    48: ("mirror/test_blobs.py::test_a_manifest_is_found_below_blobs_too",),
    50: ("server/test_foreign_layers.py::test_a_host_that_is_not_in_the_list",),
    52: (
        "store/test_store_blobs.py::test_damage_is_found_on_read_and_heals",
        "mirror/test_tags.py::test_a_damaged_manifest_is_fetched_again",
    ),
    55: ("server/test_contents.py::test_tags", "server/test_contents.py::test_tag_link_keeps_the_namespace"),
    56: ("server/test_contents.py::test_tags", "server/test_contents.py::test_empty_tag_list"),
    63: ("server/test_frame.py::test_failures_become_errors",),
    64: ("server/test_loops.py::test_a_request_that_comes_back", "server/test_loops.py::test_a_chain_without_end"),
    67: ("oci/test_routing.py::test_closed_list",),
    72: ("server/test_contents.py::test_routes", "oci/test_routing.py::test_worked_examples"),
    74: (
        "server/test_supervisor.py::test_stops_gracefully_under_load",
        "server/test_supervisor.py::test_a_transfer_finishes_and_the_second_interrupt_is_immediate",
        "server/test_frame.py::test_draining_connections_close",
    ),
    76: (
        "server/test_listening_tls.py::test_new_files_drop_no_connection",
        "server/test_tls_processes.py::test_plain_and_secure_together",
    ),
    77: ("server/test_admin.py::test_health",),
    78: ("server/test_frame.py::test_access_log",),
    81: ("server/test_door.py::test_connections_beyond_the_limit_wait",),
    83: (
        *(f"cli/test_setup_checks.py::test_{each}" for each in ("hosts_toml", "config_path", "daemon_json")),
        *(
            f"cli/test_setup_checks.py::test_{each}"
            for each in ("registries_conf", "buildkitd_toml", "registries_yaml")
        ),
        "cli/test_setup_checks.py::test_what_a_client_did",
        "mirror/test_probe.py::test_it_refuses_as_policy_refuses",
    ),
}

DECIDED: dict[int, str] = {
    27: "a schema 1 manifest is upstream's fault, so 502 and not 404: nobody may take it for a tag that is not there",
    28: "HEAD pins (D11): every digest that a client was ever told is backed by bytes that we hold",
    42: "206 multipart/byteranges up to 1,024 parts that are together no more than the blob; else 200 with all of it",
    50: "foreign layers come from an allow-list of hosts (foreign_hosts); without one they are not there",
    57: "no mode that lists pinned tags only: with upstream away the list is that, and says so in a Warning",
    58: "no catalog: a mirror does not know what its upstreams hold; 404 UNSUPPORTED",
    60: "a miss while upstream is away is 502, 503 or 504 and not 404: it is not known that it does not exist",
    68: "the headers are IAR-Upstream and IAR-Cache, without X- (RFC 6648)",
    79: "no 401 and no token endpoints: nodes are known by client certificate; passwords for a mirror leak upstream's",
}

SEEN: dict[int, tuple[str, ...]] = {
    57: ("mirror/test_listing.py::test_tags_offline_are_what_we_hold",),
    58: ("server/test_contents.py::test_catalog",),
    79: (
        "server/test_listening_tls.py::test_client_certificates_required",
        "server/test_listening_tls.py::test_client_certificates_optional",
    ),
}
