"""The mutants: what was once changed on purpose without any test failing, and whatever else is a guard of that kind.

One entry for each: the module and function, the text, what it becomes, and the tests that fail then. Whoever changes
the line of an entry changes the entry with it (tests/test_mutants.py says which), and tries it: `make mutants`.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant


def _in(module: str, *entries: tuple[str, ...], postgresql: bool = False) -> list[Mutant]:
    """The mutants of one module. An entry: function, before, after, and one test or more."""
    return [
        Mutant(module, function, before, after, tuple(tests), postgresql) for function, before, after, *tests in entries
    ]


<<<<<<< ours
LEASES = "test_leases.py::test_"
BULKHEAD = "reconcile/test_bulkhead.py::test_"

=======
>>>>>>> theirs
MUTANTS: tuple[Mutant, ...] = (
    *_in(
        "deployments/admin/keys.py",
        (
            "AccessKeyAdmin.revoke_view",
            'with Trail.of(request).change("revoke.key", key, before=before) as line:',
            'with Trail.of(request).change("revoke.key", key, before=before) as line:\n                line.nothing_changed()',
            "admin/test_actions.py::test_revoking_a_key_leaves_one_line_with_its_owner",
        ),
        (
            "AccessKeyAdmin.revoke_view",
            "line.nothing_changed()",
            "pass",
            "admin/test_actions.py::test_revoking_a_key_leaves_one_line_with_its_owner",
        ),
        (
            "AccessKeyAdmin.rotate_view",
            'with Trail.of(request).change("rotate.key", key) as line:',
            'with Trail.of(request).change("rotate.key", key) as line:\n                    line.nothing_changed()',
            "admin/test_actions.py::test_rotating_a_key_leaves_a_line_and_a_refused_rotation_one_with_the_reason",
        ),
        (
            "AccessKeyAdmin.add_view",
            'with Trail.of(request).change("make.key") as line:',
            'with Trail.of(request).change("make.key") as line:\n                line.nothing_changed()',
            "admin/test_actions.py::test_making_a_key_leaves_a_line",
        ),
    ),
    *_in(
        "deployments/admin/looks.py",
        (
            "",
            "with Trail.of(request).change(action, target) as line:",
            "with Trail.of(request).change(action, target) as line:\n                line.nothing_changed()",
            "admin/test_actions.py::test_each_look_leaves_a_line_with_how_many_it_was_about_and_a_refused_one_with_the_reason",
        ),
    ),
    *_in(
        "deployments/admin/sweeps.py",
        (
            "SweepAdmin.start_view",
            'with Trail.of(request).change("start.sweep", after=after) as line:',
            'with Trail.of(request).change("start.sweep", after=after) as line:\n                line.nothing_changed()',
            "admin/test_actions.py::test_starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not",
        ),
        (
            "SweepAdmin.stop_view",
            'with Trail.of(request).change("stop.sweep", sweep) as line:',
            'with Trail.of(request).change("stop.sweep", sweep) as line:\n            line.nothing_changed()',
            "admin/test_actions.py::test_starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not",
        ),
        (
            "SweepAdmin.stop_view",
            "line.nothing_changed()",
            "pass",
            "admin/test_actions.py::test_starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not",
        ),
    ),
    *_in(
        "deployments/admin/variables.py",
        (
            "Variables.variable_view",
            'with Trail.of(request).change("set.variable", environment, after={"name": name}) as line:',
            'with Trail.of(request).change("set.variable", environment, after={"name": name}) as line:\n                    line.nothing_changed()',
            "admin/test_actions.py::test_setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason",
        ),
        (
            "Variables.delete_variable_view",
            'with Trail.of(request).change("delete.variable", environment, before=before) as line:',
            'with Trail.of(request).change("delete.variable", environment, before=before) as line:\n                line.nothing_changed()',
            "admin/test_actions.py::test_setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason",
        ),
    ),
    *_in(
        "deployments/api/middleware.py",
        (
            "ApiMiddleware.process_exception",
            ", exc_info=exception",
            "",
            "api/test_transport.py::test_an_unexpected_error_is_a_json_500_with_the_id_in_the_log_and_no_traceback",
        ),
        (
            "_as_json",
            'answer["Allow"] = response["Allow"]',
            "pass",
            "api/test_transport.py::test_a_wrong_method_is_a_json_405_that_names_the_right_one",
        ),
        (
            "ApiMiddleware._answer",
            'response["Cache-Control"] = "no-store"',
            "pass",
            "api/test_transport.py::test_answers_are_not_stored_on_the_way",
        ),
    ),
    *_in(
        "deployments/audit.py",
        (
            "_cell",
            '"@", "\\t", "\\r"',
            '"@"',
            "test_audit.py::test_a_cell_that_a_spreadsheet_would_take_for_a_formula_begins_with_an_apostrophe",
        ),
        (
            "Trail.attempt",
            "attempt.refuse(refusal.sentence)",
            "pass",
            "admin/test_actions.py::test_a_refused_restore_leaves_a_line_with_the_reason",
        ),
        (
            "Attempt.commit",
            "with transaction.atomic():",
            "if True:",
            "admin/test_actions.py::test_revoking_a_key_leaves_one_line_with_its_owner",
        ),
    ),
    *_in(
        "deployments/config.py",
        (
            "desired_digest",
            "[*said, enforce]",
            "said",
            "test_config.py::test_observing_and_enforcing_are_two_desired_states",
        ),
        (
            "RegistryConfig.desired",
            '"kms": self.kms_key,',
            "",
            "test_config.py::test_every_part_of_the_desired_state_is_in_its_digest",
        ),
        (
            "RegistryConfig.desired",
            '"lifecycle": self.lifecycle_policy,',
            "",
            "test_config.py::test_every_part_of_the_desired_state_is_in_its_digest",
        ),
        (
            "RegistryConfig.desired",
            '"namespace": self.namespace,',
            "",
            "test_config.py::test_every_part_of_the_desired_state_is_in_its_digest",
        ),
        (
            "load",
            '"DEPLOY_TIMEOUT_MS", 480_000',
            '"DEPLOY_TIMEOUT_MS", 48_000',
            "test_config.py::test_the_defaults_that_the_settings_are_documented_with_are_the_ones_that_count",
            "test_config.py::test_the_defaults_are_these",
        ),
        (
            "load",
            '"RECONCILE_INTERVAL_MINUTES", 10',
            '"RECONCILE_INTERVAL_MINUTES", 100',
            "test_config.py::test_the_defaults_that_the_settings_are_documented_with_are_the_ones_that_count",
        ),
    ),
    *_in(
        "deployments/credentials.py",
        (
            "",
            "REMEMBER_SECONDS = 600",
            "REMEMBER_SECONDS = 6000",
            "test_credentials.py::test_where_aws_does_not_allow_a_session_the_log_in_is_wider_and_aws_is_not_asked_at_every_deploy",
        ),
        (
            "",
            "REMEMBER_SECONDS = 600",
            "REMEMBER_SECONDS = 60",
            "test_credentials.py::test_where_aws_does_not_allow_a_session_the_log_in_is_wider_and_aws_is_not_asked_at_every_deploy",
        ),
        (
            "_session",
            "asked = (us.access_key, ecr.access.role_arn)",
            "asked = (us.access_key, None)",
            "test_credentials.py::test_a_refusal_for_one_role_is_not_held_against_another",
        ),
    ),
    *_in(
        "deployments/desired.py",
        (
            "pullers",
            '{"pull": "depends", "words": "The policy cannot be read."}',
            '{"pull": "yes", "words": ""}',
            "test_desired.py::test_a_policy_that_cannot_be_read_is_never_shown_as_one_that_lets_somebody_pull",
        ),
        (
            "same_key",
            ' or actual.endswith(f":key/{wanted}")',
            "",
            "test_desired.py::test_a_kms_key_is_recognised_by_its_arn_its_id_or_its_alias",
        ),
        (
            "same_key",
            ' or "alias/" in wanted',
            "",
            "test_desired.py::test_a_kms_key_is_recognised_by_its_arn_its_id_or_its_alias",
        ),
        ("same_key", 'f":key/{wanted}"', "wanted", "test_desired.py::test_another_kms_key_is_a_difference"),
        (
            "_lifecycle",
            "sorted(value) if isinstance(value, list) else value",
            "value",
            "test_desired.py::test_the_order_of_a_rules_list_is_no_difference_and_another_list_is_one",
        ),
        (
            "detail_differences",
            "details.tags.get(key) != value",
            "key not in details.tags",
            "test_desired.py::test_an_aws_tag_with_another_value_is_a_difference_and_ours",
        ),
    ),
    *_in(
        "deployments/ecr.py",
        (
            "Ecr._call",
            "(client is not None, True)",
            "(True, True)",
            "test_ecr.py::test_expired_credentials_are_renewed_once_and_the_call_is_repeated",
        ),
        (
            "Ecr._call",
            "code in _EXPIRED and not last_try",
            "code in _EXPIRED",
            "test_ecr.py::test_credentials_that_stay_expired_are_an_error_after_one_repetition",
        ),
        (
            "_client",
            "(os.getpid(), service",
            "(0, service",
            "test_ecr.py::test_clients_and_threads_are_not_shared_with_a_forked_process",
        ),
        (
            "_executor",
            "process = os.getpid()",
            "process = 0",
            "test_ecr.py::test_clients_and_threads_are_not_shared_with_a_forked_process",
        ),
        (
            "",
            "READ_SECONDS = 10",
            "READ_SECONDS = 100",
            "test_ecr.py::test_a_call_that_may_still_be_started_ends_within_its_lease",
        ),
        (
            "",
            "CONNECT_SECONDS = 3",
            "CONNECT_SECONDS = 30",
            "test_ecr.py::test_a_call_that_may_still_be_started_ends_within_its_lease",
        ),
        (
            "_config",
            '"total_max_attempts": attempts',
            '"total_max_attempts": 10 * attempts',
            "test_ecr.py::test_a_call_that_may_still_be_started_ends_within_its_lease",
        ),
        (
            "Ecr._call",
            "_no_open_transaction()",
            "",
            "test_provisioning.py::test_aws_is_never_asked_while_a_transaction_is_open",
        ),
        (
            "Ecr._ambient_call",
            "_no_open_transaction()",
            "",
            "test_ecr.py::test_sts_too_is_never_asked_inside_a_transaction",
        ),
        (
            "EventQueue._call",
            "_no_open_transaction()",
            "",
            "test_ecr.py::test_the_event_queue_is_never_asked_inside_a_transaction",
        ),
    ),
    *_in(
        "deployments/keys.py",
        (
            "",
            "USE_IS_RECORDED_EVERY = timedelta(minutes=1)",
            "USE_IS_RECORDED_EVERY = timedelta(minutes=10)",
            "api/test_keys.py::test_a_use_is_written_down_once_a_minute",
        ),
        (
            "",
            "USE_IS_RECORDED_EVERY = timedelta(minutes=1)",
            "USE_IS_RECORDED_EVERY = timedelta(seconds=6)",
            "api/test_keys.py::test_a_use_is_written_down_once_a_minute",
        ),
        (
            "",
            "DEPLOY_KEY_LIFETIME = timedelta(hours=4)",
            "DEPLOY_KEY_LIFETIME = timedelta(hours=40)",
            "api/test_keys.py::test_a_deploy_key_works_for_four_hours",
        ),
        (
            "rotate",
            "revoke(old)",
            "AccessKey.objects.filter(pk=old.pk).update(revoked_at=now)",
            "api/test_keys.py::test_rotating_a_token_at_once_ends_the_deploy_keys_that_it_may_have_made_and_a_grace_leaves_them",
        ),
        ("revoke", "pk=key.pk, revoked_at__isnull=True", "pk=key.pk", "api/test_keys.py::test_a_key_is_revoked_once"),
        (
            "rotate",
            " or old.replaced_by.exists()",
            "",
            "api/test_keys.py::test_a_key_is_rotated_once_and_only_while_it_works",
        ),
        (
            "make_deploy_key",
            "min(end, token.expires_at or end)",
            "end",
            "api/test_keys.py::test_a_deploy_key_does_not_outlive_a_token_that_expires",
        ),
        (
            "rotate",
            "min(now + grace, old.expires_at or now + grace)",
            "now + grace",
            "api/test_keys.py::test_a_key_with_an_end_lives_as_long_again_and_its_end_is_never_put_off",
        ),
        (
            "record_use",
            "AccessKey.objects.filter(due, pk=key.pk)",
            "AccessKey.objects.filter(pk=key.pk)",
            "api/test_keys.py::test_of_two_processes_that_saw_the_same_use_one_writes_it",
        ),
        (
            "revoke",
            "deploys.update(revoked_at=Now())",
            "pass",
            "api/test_keys.py::test_a_deploy_key_dies_with_the_token_that_it_was_made_with",
        ),
        (
            "make_deploy_key",
            "filter(live(), pk=token.pk)",
            "filter(pk=token.pk)",
            "api/test_keys.py::test_a_token_that_was_revoked_meanwhile_makes_no_deploy_key",
        ),
        (
            "rotate",
            "filter(live(), pk=key.pk)",
            "filter(pk=key.pk)",
            "api/test_keys.py::test_a_key_is_rotated_once_and_only_while_it_works",
        ),
        (
            "authenticate",
            "known.filter(live(), digest",
            "known.filter(digest",
            "api/test_keys.py::test_a_key_is_revoked_once",
        ),
    ),
    *_in(
        "deployments/keys.py",
        (
            "make_deploy_key",
            "AccessKey.objects.select_for_update()",
            "AccessKey.objects",
            "api/test_keys.py::test_a_token_that_is_revoked_while_it_makes_a_deploy_key_takes_that_key_with_it",
        ),
        (
            "rotate",
            'AccessKey.objects.select_for_update(of=("self",))',
            "AccessKey.objects",
            "api/test_keys.py::test_of_two_who_rotate_a_key_at_once_one_makes_its_successor",
        ),
        postgresql=True,
    ),
    *_in(
        "deployments/lifecycle.py",
        (
            "cancel",
            'with trail.change("cancel.deployment", deployment) as line:',
            'with trail.change("cancel.deployment", deployment) as line:\n        line.nothing_changed()',
            "admin/test_actions.py::test_canceling_leaves_a_line_and_a_refused_cancel_one_with_the_reason",
        ),
        (
            "time_out_overdue",
            "count += overdue.filter(status=status)",
            "count += Deployment.objects.filter(pk__in=[each.pk for each in list(overdue)])",
            "test_lifecycle.py::test_a_deployment_that_moved_on_while_the_overdue_ones_were_looked_for_is_not_timed_out",
            "test_lifecycle.py::test_a_deployment_that_was_heard_of_while_the_overdue_ones_were_looked_for_is_not_timed_out",
        ),
        (
            "time_out_overdue",
            "deadline__lt=Now()",
            "deadline__isnull=False",
            "test_lifecycle.py::test_a_deployment_that_says_nothing_is_timed_out_once",
        ),
        (
            "_link_worker",
            "deadline=Now() + timeout,",
            "",
            "test_lifecycle.py::test_indexing_puts_the_deadline_off_so_that_a_large_push_has_its_whole_time",
        ),
        (
            "_link_worker",
            "id=deployment.id, status=BUILDING",
            "id=deployment.id",
            "test_lifecycle.py::test_a_deployment_that_was_canceled_in_the_meantime_is_not_indexed",
        ),
        (
            "_link_worker",
            "with transaction.atomic():",
            "if True:",
            "test_lifecycle.py::test_a_deployment_whose_worker_could_not_be_stored_is_not_indexed",
        ),
        (
            "_insert",
            "deadline=now + timeout,",
            "deadline=now + 10 * timeout,",
            "test_lifecycle.py::test_a_deployment_has_its_time_from_the_moment_at_which_it_is_made",
        ),
        (
            "_insert",
            "with transaction.atomic():",
            "if True:",
            "test_lifecycle.py::test_a_version_and_its_deployment_are_taken_together_or_not_at_all",
        ),
        (
            "create_deployment",
            "            if idempotency_key and (earlier := _repeated(environment, idempotency_key, request_digest)):\n                return",
            "            if False:\n                return",
            "test_lifecycle.py::test_a_retry_that_overtakes_its_first_request_gets_the_same_deployment",
        ),
        (
            "create_deployment",
            "for _ in range(3):",
            "for _ in range(1):",
            "test_lifecycle.py::test_a_version_and_its_deployment_are_taken_together_or_not_at_all",
        ),
        (
            "_repeated",
            "earlier.request_digest != request_digest",
            "False",
            "test_lifecycle.py::test_an_idempotency_key_stands_for_one_request",
        ),
        (
            "_end",
            "        .exclude(status__in=FINAL_STATUSES)\n",
            "",
            "test_lifecycle.py::test_a_deployment_that_ended_in_the_meantime_stays_as_it_ended",
        ),
        (
            "_move",
            "id=deployment.id, status=deployment.status",
            "id=deployment.id",
            "test_lifecycle.py::test_what_is_canceled_while_it_is_being_proved_is_not_promoted",
        ),
        ("finalize", "deadline=None,", "", "test_lifecycle.py::test_the_end_of_a_deployment_ends_its_deadline"),
        (
            "finalize",
            'yield f"Note: {deployment.repository.last_error}"',
            "pass",
            "test_lifecycle.py::test_the_cli_hears_of_a_repository_that_has_an_error_though_the_deploy_goes_on",
        ),
        (
            "_prove",
            ".exclude(status=DEPLOYED)",
            "",
            "test_lifecycle.py::test_a_proof_that_fails_late_does_not_take_away_the_receipt_of_one_that_went_well",
        ),
        (
            "_make_current",
            "id=current.id, deployment_id=current.deployment_id",
            "id=current.id",
            "test_lifecycle.py::test_a_promotion_that_lost_a_race_looks_again",
        ),
        (
            "_make_current",
            "if newer_only and older:",
            "if False:",
            "test_lifecycle.py::test_a_deploy_overtaken_by_a_newer_one_ends_well_and_is_not_promoted",
        ),
    ),
    *_in(
        "deployments/login.py",
        ("approve", "approved_at=None, ", "", "api/test_login.py::test_of_two_who_approve_at_once_one_does"),
        (
            "decline",
            "approved_at=None, ",
            "",
            "api/test_login.py::test_an_approved_login_cannot_be_declined_from_another_tab",
        ),
        (
            "",
            "LIFETIME = timedelta(minutes=10)",
            "LIFETIME = timedelta(minutes=100)",
            "api/test_login.py::test_a_link_works_for_ten_minutes",
        ),
        (
            "",
            "LIFETIME = timedelta(minutes=10)",
            "LIFETIME = timedelta(minutes=8)",
            "api/test_login.py::test_a_login_is_approvable_for_ten_minutes",
        ),
        (
            "begin",
            "callback_port if challenge else None",
            "callback_port",
            "api/test_login.py::test_a_login_that_is_not_bound_has_no_port_that_a_code_is_sent_to",
        ),
        (
            "begin",
            "(expires_at__gt=now, approved_at=None)",
            "()",
            "api/test_login.py::test_ended_and_approved_logins_do_not_keep_new_ones_from_beginning",
        ),
        ("collect", ", collected_at=None", "", "api/test_login.py::test_of_two_who_collect_at_once_one_gets_the_token"),
        (
            "approve",
            ", expires_at__gt=Now()",
            "",
            "api/test_login.py::test_a_login_that_was_declined_in_another_tab_cannot_be_approved",
            "api/test_login.py::test_a_login_that_has_expired_cannot_be_approved",
        ),
        (
            "decline",
            ", expires_at__gt=Now()",
            "",
            "api/test_login.py::test_a_login_that_has_expired_cannot_be_approved",
        ),
        (
            "find",
            ", expires_at__gt=Now()",
            "",
            "api/test_login.py::test_a_declined_login_is_over_for_the_cli_at_once",
            "api/test_login.py::test_a_login_ends_after_ten_minutes",
        ),
        ("collect", ", expires_at__gt=Now()", "", "api/test_login.py::test_a_login_ends_after_ten_minutes"),
    ),
    *_in(
        "deployments/notify.py",
        (
            "place",
            "notification channel",
            "channel",
            "test_vault.py::test_the_places_that_secrets_are_sealed_to_keep_their_names",
        ),
<<<<<<< ours
=======
        (
            "",
            "DIGEST_EVERY = timedelta(minutes=10)",
            "DIGEST_EVERY = timedelta(minutes=1)",
            "test_notify.py::test_there_is_one_message_for_many_in_ten_minutes_and_the_rest_waits_for_the_next_one",
        ),
        (
            "",
            "DIGEST_EVERY = timedelta(minutes=10)",
            "DIGEST_EVERY = timedelta(minutes=100)",
            "test_notify.py::test_there_is_one_message_for_many_in_ten_minutes_and_the_rest_waits_for_the_next_one",
        ),
        ("", "MANY = 5", "MANY = 50", "test_notify.py::test_up_to_five_at_once_are_told_one_by_one"),
        ("", "MANY = 5", "MANY = 4", "test_notify.py::test_up_to_five_at_once_are_told_one_by_one"),
        (
            "",
            "KEY_WARNING = timedelta(days=7)",
            "KEY_WARNING = timedelta(days=70)",
            "test_notify.py::test_a_key_is_told_of_a_week_before_it_expires",
        ),
        (
            "",
            "KEY_WARNING = timedelta(days=7)",
            "KEY_WARNING = timedelta(days=0.7)",
            "test_notify.py::test_a_key_is_told_of_a_week_before_it_expires",
        ),
        (
            "",
            "KEPT = timedelta(days=30)",
            "KEPT = timedelta(days=3)",
            "test_notify.py::test_deliveries_are_kept_for_thirty_days",
        ),
        (
            "",
            "KEPT = timedelta(days=30)",
            "KEPT = timedelta(days=300)",
            "test_notify.py::test_deliveries_are_kept_for_thirty_days",
        ),
        (
            "",
            "LOOK_BACK = timedelta(hours=24)",
            "LOOK_BACK = timedelta(hours=240)",
            "test_notify.py::test_what_happened_a_day_ago_is_no_news",
        ),
        (
            "",
            "LOOK_BACK = timedelta(hours=24)",
            "LOOK_BACK = timedelta(hours=2.4)",
            "test_notify.py::test_what_happened_a_day_ago_is_no_news",
        ),
        (
            "",
            "timedelta(minutes=5), timedelta(minutes=30)",
            "timedelta(minutes=50), timedelta(minutes=30)",
            "test_notify.py::test_what_fails_is_tried_again_after_1_5_and_30_minutes_and_then_given_up",
        ),
        (
            "_collect_for",
            "with transaction.atomic():",
            "if True:",
            "test_notify.py::test_a_message_for_many_is_written_with_the_marks_of_its_items_or_not_at_all",
        ),
        (
            "_collect_for",
            "each.at >= channel.created_at or each.at > now",
            "True",
            "test_notify.py::test_what_went_well_was_canceled_or_is_old_is_not_told",
        ),
        ("_sweeps", "dry_run=False, ", "", "test_notify.py::test_a_dry_run_that_fails_is_no_news"),
        (
            "collect",
            " & ~Q(status=DeliveryStatus.WAITING)",
            "",
            "test_notify.py::test_old_deliveries_are_cleared_away_and_waiting_ones_stay",
        ),
        (
            "reencrypt",
            "filter(pk=channel.pk, secret=channel.secret)",
            "filter(pk=channel.pk)",
            "test_notify.py::test_a_secret_that_was_set_while_it_was_encrypted_anew_is_the_one_that_stays",
        ),
        (
            "_claim",
            ", attempts=row.attempts, next_try_at=row.next_try_at",
            "",
            "test_notify.py::test_a_claim_is_lost_to_whoever_was_faster",
        ),
        (
            "_claim",
            "attempts=row.attempts + 1, next_try_at=now + delay",
            "attempts=row.attempts + 1",
            "test_notify.py::test_a_worker_that_dies_while_it_sends_costs_a_delay_and_no_message",
        ),
        (
            "_claim",
            "if row.attempts >= ATTEMPTS:",
            "if False:",
            "test_notify.py::test_a_last_attempt_that_nobody_came_back_from_is_given_up",
        ),
        (
            "_try",
            "attempts=row.attempts, status=DeliveryStatus.WAITING",
            "status=DeliveryStatus.WAITING",
            "test_notify.py::test_an_attempt_that_came_back_late_does_not_change_what_the_next_one_came_to",
        ),
        (
            "_send",
            "if connection.in_atomic_block:",
            "if False:",
            "test_notify.py::test_nothing_is_sent_inside_a_transaction",
        ),
        ("_due", ", channel__enabled=True", "", "test_notify.py::test_a_channel_that_was_switched_off_is_sent_nothing"),
>>>>>>> theirs
    ),
    *_in(
        "deployments/outbound.py",
        ("", "SECONDS = 5.0", "SECONDS = 50.0", "test_notify.py::test_a_webhook_costs_the_worker_five_seconds_at_most"),
    ),
    *_in(
        "deployments/pace.py",
        (
            "Pace.spend",
            "self._take()",
            "pass",
            "test_pace.py::test_calls_that_do_not_wait_for_their_turn_make_the_others_wait_the_longer",
        ),
        ("", "SLICE = 0.25", "SLICE = 25", "test_pace.py::test_a_stop_is_noticed_while_a_call_waits_for_its_turn"),
        (
            "",
            "CALM = 10.0",
            "CALM = 1.0",
            "test_pace.py::test_a_rate_that_was_learned_is_kept_for_ten_seconds_without_a_refusal",
        ),
        (
            "",
            "CALM = 10.0",
            "CALM = 100.0",
            "test_pace.py::test_a_rate_that_was_learned_is_kept_for_ten_seconds_without_a_refusal",
        ),
        (
            "Pace.refused",
            "now - self._changed < SETTLE",
            "False",
            "test_pace.py::test_a_burst_of_refusals_teaches_one_lesson",
        ),
    ),
    *_in(
        "deployments/policy/lint.py",
        (
            "lint",
            "len(text) > MAX_CHARACTERS",
            "len(text) >= MAX_CHARACTERS",
            "policy/test_lint.py::test_a_policy_of_exactly_the_characters_that_ecr_takes_is_not_too_long",
        ),
        (
            "",
            "MAX_CHARACTERS = 10_240",
            "MAX_CHARACTERS = 10_250",
            "policy/test_lint.py::test_a_policy_of_exactly_the_characters_that_ecr_takes_is_not_too_long",
        ),
        (
            "_denied_to_the_world",
            " or statement.puzzles",
            "",
            "policy/test_lint.py::test_a_deny_that_is_not_understood_closes_nothing",
        ),
        (
            "_is_one_owner",
            ' and "/" in value',
            "",
            "policy/test_lint.py::test_a_path_of_an_organisation_restricts_only_with_a_slash_behind_its_id",
        ),
    ),
    *_in(
        "deployments/proof.py",
        (
            "_InEcr.configuration",
            "content is None or distribution.digest_of(content) != digest",
            "content is None",
            "test_proof.py::test_what_the_storage_hands_out_is_believed_only_with_the_right_digest",
        ),
        ("_pull", "if not found:", "if False:", "test_proof.py::test_a_trial_pull_that_gets_nothing_is_no_pull"),
        (
            "_read",
            "tree.manifests + len(children) > MAX_MANIFESTS",
            "len(children) > MAX_MANIFESTS",
            "test_proof.py::test_an_image_has_a_hundred_manifests_in_all_and_not_on_each_level",
        ),
        (
            "",
            "MAX_MANIFESTS = 100",
            "MAX_MANIFESTS = 1000",
            "test_proof.py::test_an_image_has_a_hundred_manifests_in_all_and_not_on_each_level",
        ),
        (
            "",
            "MAX_MANIFESTS = 100",
            "MAX_MANIFESTS = 90",
            "test_proof.py::test_an_image_has_a_hundred_manifests_in_all_and_not_on_each_level",
        ),
    ),
    *_in(
        "deployments/provisioning.py",
        (
            "",
            '"taken_over_at": None,',
            "",
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"lifecycle_is_ours": False,',
            "",
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"policy_text": "",\n    "lifecycle_is_ours": False',
            '"lifecycle_is_ours": False',
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"consumers": {},',
            "",
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"origin": "",',
            "",
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"policy_applied_at": None,\n    "policy_text"',
            '"policy_text"',
            "test_provisioning.py::test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            "LEASE = timedelta(seconds=90)",
            "LEASE = timedelta(seconds=900)",
            "test_provisioning.py::test_a_lease_is_held_by_one_for_ninety_seconds",
        ),
        (
            "",
            "CALLS_END = 0.5",
            "CALLS_END = 0.95",
            "test_provisioning.py::test_no_call_starts_in_the_second_half_of_a_lease",
        ),
        (
            "",
            "CALLS_END = 0.5",
            "CALLS_END = 0.05",
            "test_provisioning.py::test_no_call_starts_in_the_second_half_of_a_lease",
        ),
        (
            "",
            "DETAILS_AGE = timedelta(hours=24)",
            "DETAILS_AGE = timedelta(hours=2.4)",
            "test_provisioning.py::test_details_are_looked_at_once_a_day",
        ),
        (
            "",
            "BOUND = timedelta(minutes=5)",
            "BOUND = timedelta(minutes=50)",
            "test_provisioning.py::test_an_error_that_heals_for_a_while_has_five_minutes",
        ),
        (
            "",
            "BOUND = timedelta(minutes=5)",
            "BOUND = timedelta(minutes=0.5)",
            "test_provisioning.py::test_an_error_that_heals_for_a_while_has_five_minutes",
        ),
        (
            "",
            "SKEW = timedelta(seconds=60)",
            "SKEW = timedelta(seconds=600)",
            "test_provisioning.py::test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then",
        ),
        (
            "",
            "SKEW = timedelta(seconds=60)",
            "SKEW = timedelta(seconds=6)",
            "test_provisioning.py::test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then",
        ),
        (
            "",
            "VISIBLE_SECONDS = 20",
            "VISIBLE_SECONDS = 2",
            "test_provisioning.py::test_a_new_repository_has_twenty_seconds_to_be_seen",
        ),
        (
            "",
            "VISIBLE_SECONDS = 20",
            "VISIBLE_SECONDS = 200",
            "test_provisioning.py::test_a_new_repository_has_twenty_seconds_to_be_seen",
        ),
        (
            "_adopt",
            "and details.created_at >= since - SKEW",
            "",
            "test_provisioning.py::test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then",
        ),
        (
            "_adopt",
            "and all(details.tags.get(key) == value for key, value in registry.tags)",
            "",
            "test_provisioning.py::test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then",
        ),
        (
            "_adopt",
            "and (details.mutability, details.exclusions) == (desired.MUTABILITY, desired.EXCLUSIONS)",
            "",
            "test_provisioning.py::test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then",
        ),
        (
            "_adopt",
            "and run.unanswered",
            "",
            "test_provisioning.py::test_in_observe_mode_a_repository_made_by_hand_after_our_create_was_refused_is_not_taken_for_ours",
            "test_provisioning.py::test_what_is_there_though_no_answer_of_ours_was_lost_is_somebody_elses",
        ),
        (
            "Lease.give_up",
            ", lease_epoch=self.epoch",
            "",
            "test_provisioning.py::test_who_lost_a_lease_neither_gives_it_back_nor_notes_anything_under_it",
        ),
        (
            "Lease.note",
            ", lease_epoch=self.epoch",
            "",
            "test_provisioning.py::test_who_lost_a_lease_neither_gives_it_back_nor_notes_anything_under_it",
        ),
        (
            "Lease.finish",
            ", lease_epoch=self.epoch",
            "",
            "test_provisioning.py::test_a_result_found_under_a_lease_that_was_taken_over_is_dropped",
        ),
        (
            "reconcile",
            "look if lease.epoch == row.lease_epoch + 1 else None",
            "look",
            "test_provisioning.py::test_a_look_counts_only_while_nobody_has_worked_on_the_row_since",
        ),
        (
            "reconcile",
            "look if lease.epoch == row.lease_epoch + 1 else None",
            "None",
            "test_provisioning.py::test_a_look_counts_only_while_nobody_has_worked_on_the_row_since",
        ),
        (
            "converge",
            "except BaseException:\n        lease.give_up()",
            "except BaseException:\n        pass",
            "test_provisioning.py::test_whatever_happens_in_a_look_the_lease_is_given_back",
        ),
        (
            "converge",
            "row.refresh_from_db()",
            "pass",
            "test_provisioning.py::test_a_result_that_came_too_late_is_answered_with_the_newer_one",
        ),
<<<<<<< ours
        (
            "_usable",
            "error.installation or ",
            "",
            "test_provisioning.py::test_a_fault_of_the_whole_installation_stops_the_deploy_also_where_the_repository_was_right",
        ),
        (
            "_write",
            "run.event(EventKind.DRIFT_FOUND, words, policy_before=policy_before).save()",
            "run.happened(EventKind.DRIFT_FOUND, words, policy_before=policy_before)",
            "test_provisioning.py::test_a_foreign_policy_is_in_the_history_before_it_is_overwritten",
        ),
        (
=======
        (
            "_usable",
            "error.installation or ",
            "",
            "test_provisioning.py::test_a_fault_of_the_whole_installation_stops_the_deploy_also_where_the_repository_was_right",
        ),
        (
            "_write",
            "run.event(EventKind.DRIFT_FOUND, words, policy_before=policy_before).save()",
            "run.happened(EventKind.DRIFT_FOUND, words, policy_before=policy_before)",
            "test_provisioning.py::test_a_foreign_policy_is_in_the_history_before_it_is_overwritten",
        ),
        (
>>>>>>> theirs
            "_write",
            "if run.row.status != RepositoryStatus.FAILED or not earlier.exists():",
            "if True:",
            "test_provisioning.py::test_a_heal_that_fails_again_and_again_adds_one_line_of_history_and_one_error",
        ),
        (
            "_write",
            "run.row.status != RepositoryStatus.FAILED or ",
            "",
            "test_provisioning.py::test_a_drift_that_comes_back_is_in_the_history_again",
<<<<<<< ours
        ),
        (
            "_record",
            'if row.status != RepositoryStatus.DRIFTED or row.differences != values["differences"]:',
            "if True:",
            "test_provisioning.py::test_drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
=======
        ),
        (
            "_record",
            'if row.status != RepositoryStatus.DRIFTED or row.differences != values["differences"]:',
            "if True:",
            "test_provisioning.py::test_drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
>>>>>>> theirs
            ' or row.differences != values["differences"]',
            "",
            "test_provisioning.py::test_drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
            "row.drifted_since or now",
            "now",
            "test_provisioning.py::test_drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
            "if row.status != RepositoryStatus.MISSING:",
            "if True:",
            "test_provisioning.py::test_that_a_repository_is_gone_is_one_line_however_often_it_is_looked_for",
        ),
        (
            "take_over",
            'origin="adopted", taken_over_at__isnull=True',
            'origin="adopted"',
            "test_provisioning.py::test_an_operators_click_brings_an_adopted_repository_in_line_altogether",
        ),
        (
            "_create",
            'run.lease.note({"creating_since": now})',
            "pass",
            "test_provisioning.py::test_a_create_that_was_killed_before_its_answer_is_found_to_be_ours",
        ),
        (
            "_create",
            "if not error.heals:",
            "if True:",
            "test_provisioning.py::test_a_create_whose_error_may_have_hidden_a_success_is_remembered",
<<<<<<< ours
        ),
        (
            "_failure",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "now",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_failure",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "row.error_since or now",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
=======
        ),
        (
            "_failure",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "now",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_failure",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "row.error_since or now",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_failure",
            "if event.state_since or row.last_error != str(error) else []",
            "",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "Lease.claim",
            "mine.update(**leases.RETURNED)",
            "pass",
            "test_provisioning.py::test_a_lease_whose_row_could_not_be_read_is_given_back",
        ),
        (
            "reconcile",
            "replace(ecr, before_attempt=lease.require_time)",
            "ecr",
            "test_provisioning.py::test_the_leases_time_is_looked_at_after_a_sweeps_call_has_waited_for_its_turn",
>>>>>>> theirs
        ),
    ),
    *_in(
        "deployments/reconcile/lease.py",
        (
<<<<<<< ours
            "_failure",
            "if event.state_since or row.last_error != str(error) else []",
            "",
            "test_provisioning.py::test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "Lease.claim",
            "mine.update(**leases.RETURNED)",
            "pass",
            "test_provisioning.py::test_a_lease_whose_row_could_not_be_read_is_given_back",
        ),
        (
            "reconcile",
            "replace(ecr, before_attempt=lease.require_time)",
            "ecr",
            "test_provisioning.py::test_the_leases_time_is_looked_at_after_a_sweeps_call_has_waited_for_its_turn",
        ),
    ),
    *_in(
        "deployments/reconcile/lease.py",
        (
            "claim",
            "rows.filter(free())",
            "rows",
            "test_provisioning.py::test_a_lease_is_held_by_one_for_ninety_seconds",
            "test_sweeps.py::test_a_chunk_or_a_listing_is_held_by_one_for_forty_five_seconds",
        ),
        (
            "claim",
            'lease_epoch=F("lease_epoch") + 1,',
            "",
            "test_provisioning.py::test_a_lease_left_by_a_dead_process_is_taken_over_when_it_has_run_out",
        ),
        (
            "free",
            " | Q(lease_until__lt=Now())",
            "",
            "test_provisioning.py::test_a_lease_left_by_a_dead_process_is_taken_over_when_it_has_run_out",
=======
            "claim",
            "rows.filter(free())",
            "rows",
            "test_provisioning.py::test_a_lease_is_held_by_one_for_ninety_seconds",
            "test_sweeps.py::test_a_chunk_or_a_listing_is_held_by_one_for_forty_five_seconds",
        ),
        (
            "claim",
            'lease_epoch=F("lease_epoch") + 1,',
            "",
            "test_provisioning.py::test_a_lease_left_by_a_dead_process_is_taken_over_when_it_has_run_out",
        ),
        (
            "free",
            " | Q(lease_until__lt=Now())",
            "",
            "test_provisioning.py::test_a_lease_left_by_a_dead_process_is_taken_over_when_it_has_run_out",
        ),
        (
            "free",
            " | processes.silent()",
            "",
            "test_leases.py::test_a_lease_of_a_process_that_is_silent_or_has_ended_is_taken_at_once",
        ),
        (
            "claim",
            "processes.beat_if_late()",
            "pass",
            "test_leases.py::test_a_process_that_was_suspended_beats_before_it_takes_a_lease",
        ),
    ),
    *_in(
        "deployments/reconcile/processes.py",
        (
            "may_write",
            "not _ended and ",
            "",
            "test_leases.py::test_a_process_that_has_ended_starts_no_call_under_a_lease",
        ),
        (
            "",
            "WRITE_SECONDS = 10.0",
            "WRITE_SECONDS = 100.0",
            "test_leases.py::test_a_process_sends_nothing_to_aws_ten_seconds_after_its_last_confirmed_heartbeat",
        ),
        (
            "",
            "SILENT_SECONDS = 15.0",
            "SILENT_SECONDS = 150.0",
            "test_leases.py::test_a_lease_outlives_the_last_heartbeat_of_its_process_by_fifteen_seconds",
        ),
        (
            "",
            "SILENT_SECONDS = 15.0",
            "SILENT_SECONDS = 1.5",
            "test_leases.py::test_a_lease_outlives_the_last_heartbeat_of_its_process_by_fifteen_seconds",
        ),
        (
            "silent",
            " | Q(ended_at__isnull=False)",
            "",
            "test_leases.py::test_a_lease_of_a_process_that_is_silent_or_has_ended_is_taken_at_once",
        ),
        (
            "beat",
            "if heard:",
            "if True:",
            "test_leases.py::test_a_beat_that_the_database_did_not_confirm_does_not_count",
>>>>>>> theirs
        ),
    ),
    *_in(
        "deployments/restore.py",
        (
            "_write",
            "if not look.exists:",
            "if False:",
            "test_restore.py::test_a_repository_that_is_gone_is_not_made_again",
        ),
        (
            "_put_back",
            '"checked_digest": "",',
            "",
            "test_restore.py::test_after_a_policy_was_put_back_the_next_look_looks_at_everything",
        ),
        (
            "_put_back",
            '"written_at": Now(),',
            "",
            "test_restore.py::test_our_own_write_comes_back_as_an_event_and_causes_no_look",
        ),
        (
            "_put_back",
            "except BaseException:\n        lease.give_up()",
            "except BaseException:\n        pass",
            "test_restore.py::test_whatever_happens_the_lease_is_given_back",
        ),
        (
            "_put_back",
            "except RegistryError as error:\n        lease.give_up()",
            "except RegistryError as error:\n        pass",
            "test_restore.py::test_what_aws_refuses_is_said_and_the_lease_is_given_back",
        ),
        (
            "_put_back",
            "row.drifted_since or now",
            "now",
            "test_restore.py::test_the_drift_that_a_restore_leaves_is_as_old_as_it_was",
        ),
        (
            "_put_back",
            "if lease is None:",
            "if False:",
            "test_restore.py::test_while_somebody_works_on_the_repository_nothing_is_written",
        ),
        (
            "_put_back",
            "if errors:",
            "if False:",
            "test_restore.py::test_a_policy_that_is_wrong_or_opens_the_repository_to_the_world_is_not_put_back",
        ),
        (
            "_put_back",
            "before_attempt=lease.require_time, ",
            "",
            "test_restore.py::test_nothing_is_written_late_in_the_lease",
        ),
    ),
    *_in(
        "deployments/sweeps.py",
        (
            "",
            "LEASE = timedelta(seconds=45)",
            "LEASE = timedelta(seconds=450)",
            "test_sweeps.py::test_a_chunk_or_a_listing_is_held_by_one_for_forty_five_seconds",
        ),
        (
            "",
            "RENEW_SECONDS = 10",
            "RENEW_SECONDS = 100",
            "test_sweeps.py::test_a_chunk_or_a_listing_is_held_by_one_for_forty_five_seconds",
        ),
        (
            "",
            "HELD_PAUSE = timedelta(seconds=5)",
            "HELD_PAUSE = timedelta(seconds=50)",
            "test_sweeps.py::test_a_chunk_of_which_only_held_repositories_are_left_rests_for_five_seconds",
        ),
        ("", "DEATHS = 5", "DEATHS = 50", "test_sweeps.py::test_a_chunk_is_halved_when_five_workers_in_a_row_took_it"),
        ("", "DEATHS = 5", "DEATHS = 2", "test_sweeps.py::test_a_chunk_is_halved_when_five_workers_in_a_row_took_it"),
        (
            "",
            "timedelta(days=30), timedelta(days=2)",
            "timedelta(days=3), timedelta(days=2)",
            "test_sweeps.py::test_sweeps_are_kept_for_a_month_and_uneventful_scheduled_ones_for_two_days",
        ),
        (
            "",
            "timedelta(days=30), timedelta(days=2)",
            "timedelta(days=300), timedelta(days=2)",
            "test_sweeps.py::test_sweeps_are_kept_for_a_month_and_uneventful_scheduled_ones_for_two_days",
        ),
        (
            "",
            "timedelta(days=30), timedelta(days=2)",
            "timedelta(days=30), timedelta(days=1)",
            "test_sweeps.py::test_sweeps_are_kept_for_a_month_and_uneventful_scheduled_ones_for_two_days",
        ),
        (
            "",
            "timedelta(days=30), timedelta(days=2)",
            "timedelta(days=30), timedelta(days=20)",
            "test_sweeps.py::test_sweeps_are_kept_for_a_month_and_uneventful_scheduled_ones_for_two_days",
        ),
        (
            "_end",
            "pk=sweep_id, status=SweepStatus.RUNNING",
            "pk=sweep_id",
            "test_sweeps.py::test_an_ended_sweep_stays_as_it_ended",
        ),
        (
            "_isolate",
            "filter(pk=chunk.pk, lease_epoch=epoch)",
            "filter(pk=chunk.pk)",
            "test_sweeps.py::test_a_chunk_is_isolated_only_by_who_holds_it",
        ),
        ("_isolate", "if released:", "if True:", "test_sweeps.py::test_a_chunk_is_isolated_only_by_who_holds_it"),
        (
            "_isolate",
            "):\n            return",
            "):\n            pass",
            "test_sweeps.py::test_a_chunk_is_isolated_only_by_who_holds_it",
        ),
        (
            "_close_finished",
            "running.filter(listed_at__isnull=False)",
            "running.all()",
            "test_sweeps.py::test_a_sweep_that_nobody_has_listed_yet_is_not_over",
        ),
        (
            "_list",
            "filter(pk=sweep.pk, lease_epoch=epoch, listed_at__isnull=True)",
            "filter(pk=sweep.pk)",
            "test_sweeps.py::test_who_lost_a_listing_cuts_no_chunks",
        ),
        (
            "_list",
            "filter(pk=sweep.pk, lease_epoch=epoch, listed_at__isnull=True)",
            "filter(pk=sweep.pk, listed_at__isnull=True)",
            "test_sweeps.py::test_who_lost_a_listing_cuts_no_chunks",
        ),
        (
            "_list",
            "lease_epoch=epoch, status=SweepStatus.RUNNING)\n",
            "lease_epoch=epoch)\n",
            "test_sweeps.py::test_a_sweep_that_was_stopped_while_the_registry_was_listed_cuts_no_chunks",
        ),
        (
            "_list",
            "if error.heals and not error.installation and sweep.trigger != SweepTrigger.COMMAND:",
            "if False:",
            "test_sweeps.py::test_a_throttled_listing_puts_a_scheduled_sweep_back_in_line_and_is_told_to_who_waits_at_a_terminal",
        ),
        (
            "_list",
            " and sweep.trigger != SweepTrigger.COMMAND",
            "",
            "test_sweeps.py::test_a_throttled_listing_puts_a_scheduled_sweep_back_in_line_and_is_told_to_who_waits_at_a_terminal",
        ),
        (
            "_note_missing",
            "lease_epoch=row.lease_epoch, ",
            "",
            "test_sweeps.py::test_a_repository_that_a_deploy_has_made_again_since_the_list_is_not_missing",
        ),
        (
            "_note_missing",
            ", last_checked_at__lt=sweep.started_at",
            "",
            "test_sweeps.py::test_a_repository_that_a_deploy_has_made_again_since_the_list_is_not_missing",
        ),
        (
            "adopt",
            "filter(pk=row.pk, status=RepositoryStatus.UNMANAGED)",
            "filter(pk=row.pk)",
            "test_sweeps.py::test_a_repository_is_adopted_once",
        ),
        (
            "_Worker._settle_quiet",
            ", last_checked_at__lt=looked_at",
            "",
            "test_sweeps.py::test_a_quiet_result_is_not_written_over_a_newer_one",
        ),
        (
            "_Worker._chunk",
            ", lease_epoch=self.epoch",
            "",
            "test_sweeps.py::test_a_worker_whose_lease_was_taken_over_drops_what_it_counted",
        ),
        ("_Worker._save", '"attempts": 0,', "", "test_sweeps.py::test_a_worker_that_lives_ends_the_row_of_deaths"),
        (
            "_Worker.run",
            "self.until = 0  # another configuration counts",
            "pass  # another configuration counts",
            "test_sweeps.py::test_a_worker_stops_in_the_middle_of_its_chunk_when_another_configuration_counts",
        ),
        (
            "_Budget.share",
            "max(1, chunks.count())",
            "1",
            "test_sweeps.py::test_workers_that_hold_chunks_of_one_registry_share_its_rate",
<<<<<<< ours
        ),
        (
            "_compare_list",
            "        .filter(lease.free())\n",
            "",
            "test_sweeps.py::test_what_a_deploy_is_making_right_now_is_not_expected_in_the_list",
        ),
        (
            "_note_changes",
            "lease.free(), pk=row.pk, lease_epoch=row.lease_epoch",
            "pk=row.pk, lease_epoch=row.lease_epoch",
            "test_sweeps.py::test_the_list_changes_no_row_that_somebody_works_on_or_has_worked_on",
        ),
        (
            "_note_changes",
            "lease.free(), pk=row.pk, lease_epoch=row.lease_epoch",
            "lease.free(), pk=row.pk",
            "test_sweeps.py::test_the_list_changes_no_row_that_somebody_works_on_or_has_worked_on",
        ),
        (
            "_note_missing",
            "lease.free(), pk=row.pk, lease_epoch",
            "pk=row.pk, lease_epoch",
            "test_sweeps.py::test_a_repository_that_a_deploy_has_made_again_since_the_list_is_not_missing",
        ),
        (
            "_Worker._save",
            "            if rests:\n",
            "            if False:\n",
            "test_sweeps.py::test_a_chunk_of_which_only_held_repositories_are_left_rests_for_five_seconds",
        ),
        (
            "_Worker._one",
            "filter(lease.free(), pk=row.pk)",
            "filter(pk=row.pk)",
            "test_sweeps.py::test_a_mistake_of_ours_is_not_written_on_a_row_that_somebody_works_on",
        ),
    ),
    *_in(
        "deployments/variables.py",
        (
            "_place",
            "environment {environment_id} variable",
            "environment {environment_id} name",
            "test_vault.py::test_the_places_that_secrets_are_sealed_to_keep_their_names",
        ),
        (
            "reencrypt",
            "filter(pk=row.pk, value=row.value)",
            "filter(pk=row.pk)",
            "api/test_variables.py::test_a_value_that_was_set_while_it_was_encrypted_anew_is_the_one_that_stays",
        ),
        (
            "sync",
            "with transaction.atomic():",
            "if True:",
            "api/test_variables.py::test_the_use_case_itself_stores_both_or_neither",
        ),
    ),
    *_in(
        "deployments/variables.py",
        (
            "store",
            "Environment.objects.select_for_update()",
            "Environment.objects",
            "api/test_variables.py::test_two_who_store_the_same_new_names_at_once_wait_for_each_other",
=======
        ),
        (
            "_compare_list",
            "        .filter(lease.free())\n",
            "",
            "test_sweeps.py::test_what_a_deploy_is_making_right_now_is_not_expected_in_the_list",
        ),
        (
            "_note_changes",
            "lease.free(), pk=row.pk, lease_epoch=row.lease_epoch",
            "pk=row.pk, lease_epoch=row.lease_epoch",
            "test_sweeps.py::test_the_list_changes_no_row_that_somebody_works_on_or_has_worked_on",
        ),
        (
            "_note_changes",
            "lease.free(), pk=row.pk, lease_epoch=row.lease_epoch",
            "lease.free(), pk=row.pk",
            "test_sweeps.py::test_the_list_changes_no_row_that_somebody_works_on_or_has_worked_on",
        ),
        (
            "_note_missing",
            "lease.free(), pk=row.pk, lease_epoch",
            "pk=row.pk, lease_epoch",
            "test_sweeps.py::test_a_repository_that_a_deploy_has_made_again_since_the_list_is_not_missing",
        ),
        (
            "_Worker._save",
            "            if rests:\n",
            "            if False:\n",
            "test_sweeps.py::test_a_chunk_of_which_only_held_repositories_are_left_rests_for_five_seconds",
        ),
        (
            "_Worker._one",
            "filter(lease.free(), pk=row.pk)",
            "filter(pk=row.pk)",
            "test_sweeps.py::test_a_mistake_of_ours_is_not_written_on_a_row_that_somebody_works_on",
>>>>>>> theirs
        ),
        postgresql=True,
    ),
    *_in(
<<<<<<< ours
        "deployments/vault.py",
        ("_derive", "vault v1", "vault v2", "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one"),
        (
            "_derive",
            "length=38",
            "length=40",
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
        ),
        (
            "_derive",
            "material[32:]",
            "material[:6]",
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
        ),
        (
            "",
            '_VERSION = "v1"',
            '_VERSION = "v2"',
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
        ),
        ("", "_NONCE = 12", "_NONCE = 16", "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one"),
        (
            "Vault.__init__",
            "dict(reversed(keys))",
            "dict(keys[:1])",
            "test_vault.py::test_a_key_that_was_replaced_still_opens_and_no_longer_seals",
=======
        "deployments/variables.py",
        (
            "_place",
            "environment {environment_id} variable",
            "environment {environment_id} name",
            "test_vault.py::test_the_places_that_secrets_are_sealed_to_keep_their_names",
        ),
        (
            "reencrypt",
            "filter(pk=row.pk, value=row.value)",
            "filter(pk=row.pk)",
            "api/test_variables.py::test_a_value_that_was_set_while_it_was_encrypted_anew_is_the_one_that_stays",
        ),
        (
            "sync",
            "with transaction.atomic():",
            "if True:",
            "api/test_variables.py::test_the_use_case_itself_stores_both_or_neither",
        ),
    ),
    *_in(
        "deployments/variables.py",
        (
            "store",
            "Environment.objects.select_for_update()",
            "Environment.objects",
            "api/test_variables.py::test_two_who_store_the_same_new_names_at_once_wait_for_each_other",
>>>>>>> theirs
        ),
        postgresql=True,
    ),
    *_in(
<<<<<<< ours
        "deployments/reconcile/bulkhead.py",
        ("_enter", "threads // 2", "threads", BULKHEAD + "half_of_the_threads_may_wait_for_aws"),
        ("_leave", "_held -= 1", "pass", BULKHEAD + "half_of_the_threads_may_wait_for_aws"),
        ("_leave", "_free.notify()", "pass", BULKHEAD + "who_waits_in_line_gets_the_next_place"),
        (
            "_enter",
            "threads // 4",
            "threads",
            BULKHEAD + "the_line_is_a_quarter_of_the_threads_and_is_not_waited_in_for_ever",
        ),
        (
            "waiting",
            "_waiting >= max(1, _threads // 4)",
            "False",
            BULKHEAD + "two_of_eight_threads_wait_for_another_deploy_and_the_third_is_refused_at_once",
        ),
    ),
    *_in(
        "deployments/provisioning.py",
        (
            "ensure_repository",
            "place.enter_context(bulkhead.place())",
            "pass",
            BULKHEAD + "a_deploy_that_must_ask_aws_is_refused_and_one_that_need_not_goes_on",
=======
        "deployments/vault.py",
        ("_derive", "vault v1", "vault v2", "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one"),
        (
            "_derive",
            "length=38",
            "length=40",
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
        ),
        (
            "_derive",
            "material[32:]",
            "material[:6]",
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
        ),
        (
            "",
            '_VERSION = "v1"',
            '_VERSION = "v2"',
            "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one",
>>>>>>> theirs
        ),
        ("", "_NONCE = 12", "_NONCE = 16", "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one"),
        (
<<<<<<< ours
            "",
            "CALL_SECONDS = 3.0",
            "CALL_SECONDS = 30.0",
            BULKHEAD + "nobody_waits_longer_than_three_seconds_for_a_holder_that_waits_for_one_call",
        ),
        (
            "",
            "HELD_SECONDS = 9.0",
            "HELD_SECONDS = 90.0",
            BULKHEAD + "a_holder_in_another_process_is_waited_for_nine_seconds_at_most",
        ),
    ),
    *_in(
        "deployments/lifecycle.py",
        (
            "registry_credentials",
            "with bulkhead.place():",
            "if True:",
            BULKHEAD + "a_log_in_for_the_push_needs_a_place",
        ),
        (
            "_prove",
            "with bulkhead.place(in_line=in_line):",
            "if True:",
            BULKHEAD + "a_finalize_waits_in_line_and_leaves_no_receipt_when_it_gets_no_place",
        ),
        (
            "_prove_again",
            '("image_undecided", "server_waits_for_aws")',
            '("image_undecided",)',
            BULKHEAD + "a_roll_back_to_an_image_that_was_proved_does_not_wait_for_a_place",
=======
            "Vault.__init__",
            "dict(reversed(keys))",
            "dict(keys[:1])",
            "test_vault.py::test_a_key_that_was_replaced_still_opens_and_no_longer_seals",
>>>>>>> theirs
        ),
    ),
)
