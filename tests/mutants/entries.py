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


VAULT = "test_vault.py::test_what_an_earlier_release_sealed_is_opened_by_this_one"
PROVISIONING = "test_provisioning.py::test_"
ADOPTING = "a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then"
TRANSPORT, ACTIONS = "api/test_transport.py::test_", "admin/test_actions.py::test_"

MUTANTS: tuple[Mutant, ...] = (
    *_in(
        "deployments/vault.py",
        ("_derive", "vault v1", "vault v2", VAULT),
        ("_derive", "length=38", "length=40", VAULT),
        ("_derive", "material[32:]", "material[:6]", VAULT),
        ("", '_VERSION = "v1"', '_VERSION = "v2"', VAULT),
        ("", "_NONCE = 12", "_NONCE = 16", VAULT),
        (
            "Vault.__init__",
            "dict(reversed(keys))",
            "dict(keys[:1])",
            "test_vault.py::test_a_key_that_was_replaced_still_opens_and_no_longer_seals",
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
        ),
        postgresql=True,
    ),
    *_in(
        "deployments/notify.py",
        (
            "place",
            "notification channel",
            "channel",
            "test_vault.py::test_the_places_that_secrets_are_sealed_to_keep_their_names",
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
        (
            "load",
            '"DEPLOY_QUEUE_TIMEOUT_MS", 900_000',
            '"DEPLOY_QUEUE_TIMEOUT_MS", 90_000',
            "test_config.py::test_the_defaults_that_the_settings_are_documented_with_are_the_ones_that_count",
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
        "deployments/login.py",
        (
            "approve",
            ", expires_at__gt=timezone.now()",
            "",
            "api/test_login.py::test_a_login_that_was_declined_in_another_tab_cannot_be_approved",
            "api/test_login.py::test_a_login_that_has_expired_cannot_be_approved",
        ),
        ("approve", "approved_at=None, ", "", "api/test_login.py::test_of_two_who_approve_at_once_one_does"),
        (
            "decline",
            "approved_at=None, ",
            "",
            "api/test_login.py::test_an_approved_login_cannot_be_declined_from_another_tab",
        ),
        ("decline", ", expires_at__gt=now", "", "api/test_login.py::test_a_login_that_has_expired_cannot_be_approved"),
        ("find", ", max_age=LIFETIME", "", "api/test_login.py::test_a_link_works_for_ten_minutes"),
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
        ("collect", " or login.expires_at <= now", "", "api/test_login.py::test_a_login_ends_after_ten_minutes"),
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
        "deployments/keys.py",
        (
            "record_use",
            "Q(last_used_at__isnull=True) | Q(last_used_at__lte=due), pk=key.pk",
            "pk=key.pk",
            "api/test_keys.py::test_of_two_processes_that_saw_the_same_use_one_writes_it",
        ),
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
        (
            "revoke",
            "deploys.update(revoked_at=now)",
            "pass",
            "api/test_keys.py::test_a_deploy_key_dies_with_the_token_that_it_was_made_with",
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
            "if not token.is_live:",
            "if False:",
            "api/test_keys.py::test_a_token_that_was_revoked_meanwhile_makes_no_deploy_key",
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
        ("authenticate", "not key.is_live or ", "", "api/test_keys.py::test_a_key_is_revoked_once"),
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
        "deployments/restore.py",
        (
            "put_back",
            '"checked_digest": "",',
            "",
            "test_restore.py::test_after_a_policy_was_put_back_the_next_look_looks_at_everything",
        ),
        (
            "put_back",
            '"written_at": Now(),',
            "",
            "test_restore.py::test_our_own_write_comes_back_as_an_event_and_causes_no_look",
        ),
        (
            "put_back",
            "before_attempt=lease.require_time, ",
            "",
            "test_restore.py::test_nothing_is_written_late_in_the_lease",
        ),
        (
            "put_back",
            "except BaseException:\n        lease.give_up()",
            "except BaseException:\n        pass",
            "test_restore.py::test_whatever_happens_the_lease_is_given_back",
        ),
        (
            "put_back",
            "except RegistryError as error:\n        lease.give_up()",
            "except RegistryError as error:\n        pass",
            "test_restore.py::test_what_aws_refuses_is_said_and_the_lease_is_given_back",
        ),
        (
            "put_back",
            "row.drifted_since or now",
            "now",
            "test_restore.py::test_the_drift_that_a_restore_leaves_is_as_old_as_it_was",
        ),
        (
            "put_back",
            "if lease is None:",
            "if False:",
            "test_restore.py::test_while_somebody_works_on_the_repository_nothing_is_written",
        ),
        (
            "put_back",
            "if errors:",
            "if False:",
            "test_restore.py::test_a_policy_that_is_wrong_or_opens_the_repository_to_the_world_is_not_put_back",
        ),
        (
            "_write",
            "if not look.exists:",
            "if False:",
            "test_restore.py::test_a_repository_that_is_gone_is_not_made_again",
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
        "deployments/audit.py",
        (
            "_cell",
            '"@", "\\t", "\\r"',
            '"@"',
            "test_audit.py::test_a_cell_that_a_spreadsheet_would_take_for_a_formula_begins_with_an_apostrophe",
        ),
    ),
    *_in(
        "deployments/outbound.py",
        ("", "SECONDS = 5.0", "SECONDS = 50.0", "test_notify.py::test_a_webhook_costs_the_worker_five_seconds_at_most"),
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
        "deployments/api/middleware.py",
        (
            "ApiMiddleware.process_exception",
            ", exc_info=exception",
            "",
            TRANSPORT + "an_unexpected_error_is_a_json_500_with_the_id_in_the_log_and_no_traceback",
        ),
        (
            "_as_json",
            'answer["Allow"] = response["Allow"]',
            "pass",
            TRANSPORT + "a_wrong_method_is_a_json_405_that_names_the_right_one",
        ),
        (
            "ApiMiddleware._answer",
            'response["Cache-Control"] = "no-store"',
            "pass",
            TRANSPORT + "answers_are_not_stored_on_the_way",
        ),
    ),
    *_in(
        "deployments/admin/keys.py",
        (
            "AccessKeyAdmin.revoke_view",
            'note(request, "revoke.key", key, before={"owner": owner_of(key), "last_used_by": key.last_used_by})',
            "pass",
            ACTIONS + "revoking_a_key_leaves_one_line_with_its_owner",
        ),
        (
            "AccessKeyAdmin.revoke_view",
            "if keys.revoke(key):",
            "keys.revoke(key)\n            if True:",
            ACTIONS + "revoking_a_key_leaves_one_line_with_its_owner",
        ),
        (
            "AccessKeyAdmin.rotate_view",
            'note(request, "rotate.key", key, outcome=refusal.sentence)',
            "pass",
            ACTIONS + "rotating_a_key_leaves_a_line_and_a_refused_rotation_one_with_the_reason",
        ),
        (
            "AccessKeyAdmin.rotate_view",
            'note(request, "rotate.key", key, after={"successor": str(new), "hours": hours})',
            "pass",
            ACTIONS + "rotating_a_key_leaves_a_line_and_a_refused_rotation_one_with_the_reason",
        ),
        (
            "AccessKeyAdmin.add_view",
            'note(request, "make.key", key, after={"kind": key.kind, "owner": owner_of(key), "scopes": key.scopes})',
            "pass",
            ACTIONS + "making_a_key_leaves_a_line",
        ),
    ),
    *_in(
        "deployments/admin/variables.py",
        (
            "Variables.delete_variable_view",
            'note(request, "delete.variable", environment, before={"name": row.name, "is_secret": row.is_secret})',
            "pass",
            ACTIONS + "setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason",
        ),
        (
            "Variables.variable_view",
            'note(request, "set.variable", environment, after={"name": name, "is_secret": secret})',
            "pass",
            ACTIONS + "setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason",
        ),
        (
            "Variables.variable_view",
            'note(request, "set.variable", environment, after={"name": name}, outcome=refusal.sentence)',
            "pass",
            ACTIONS + "setting_and_deleting_a_variable_leave_lines_with_its_name_and_a_refused_one_the_reason",
        ),
    ),
    *_in(
        "deployments/admin/policies.py",
        (
            "Policies.restore_view",
            'note(request, "restore.repository", row, outcome=refusal.sentence)',
            "pass",
            ACTIONS + "a_refused_restore_leaves_a_line_with_the_reason",
        ),
    ),
    *_in(
        "deployments/admin/promotions.py",
        (
            "Promotions.cancel_view",
            'note(request, "cancel.deployment", deployment, before=before, outcome=refusal.sentence)',
            "pass",
            ACTIONS + "canceling_leaves_a_line_and_a_refused_cancel_one_with_the_reason",
        ),
        (
            "Promotions.cancel_view",
            'note(request, "cancel.deployment", deployment, before=before, after={"status": "CANCELED"})',
            "pass",
            ACTIONS + "canceling_leaves_a_line_and_a_refused_cancel_one_with_the_reason",
        ),
        (
            "Promotions.promote_view",
            "note(request, action, deployment, before=before, outcome=refusal.sentence)",
            "pass",
            ACTIONS + "a_promotion_that_somebody_else_overtook_is_asked_about_again",
        ),
        (
            "Promotions.promote_view",
            'note(request, action, deployment, before=before, after={"current": str(deployment.version)})',
            "pass",
            ACTIONS + "a_roll_back_says_what_will_change_then_does_it_and_is_marked_as_one",
        ),
    ),
    *_in(
        "deployments/admin/sweeps.py",
        (
            "SweepAdmin.start_view",
            'note(request, "start.sweep", sweep, after={"dry_run": dry_run, "adopt": adopt, "over": "all"})',
            "pass",
            ACTIONS + "starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not",
        ),
        (
            "SweepAdmin.stop_view",
            'note(request, "stop.sweep", sweep)',
            "pass",
            ACTIONS + "starting_and_stopping_a_sweep_leave_a_line_each_and_stopping_an_ended_one_does_not",
        ),
    ),
    *_in(
        "deployments/admin/looks.py",
        (
            "",
            "note(request, action, target, outcome=refusal.sentence)",
            "pass",
            ACTIONS + "each_look_leaves_a_line_with_how_many_it_was_about_and_a_refused_one_with_the_reason",
        ),
        (
            "",
            'note(request, action, target, after={"repositories": count, **({"names": names} if names else {}), **after})',
            "pass",
            ACTIONS + "each_look_leaves_a_line_with_how_many_it_was_about_and_a_refused_one_with_the_reason",
        ),
    ),
    *_in(
        "deployments/provisioning.py",
        (
            "",
            '"taken_over_at": None,',
            "",
            PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"lifecycle_is_ours": False,',
            "",
            PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"policy_text": "",\n    "lifecycle_is_ours": False',
            '"lifecycle_is_ours": False',
            PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            '"consumers": {},',
            "",
            PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        ("", '"origin": "",', "", PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row"),
        (
            "",
            '"policy_applied_at": None,\n    "policy_text"',
            '"policy_text"',
            PROVISIONING + "nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row",
        ),
        (
            "",
            "LEASE = timedelta(seconds=90)",
            "LEASE = timedelta(seconds=900)",
            PROVISIONING + "a_lease_is_held_by_one_for_ninety_seconds",
        ),
        ("", "CALLS_END = 0.5", "CALLS_END = 0.95", PROVISIONING + "no_call_starts_in_the_second_half_of_a_lease"),
        ("", "CALLS_END = 0.5", "CALLS_END = 0.05", PROVISIONING + "no_call_starts_in_the_second_half_of_a_lease"),
        (
            "",
            "DETAILS_AGE = timedelta(hours=24)",
            "DETAILS_AGE = timedelta(hours=2.4)",
            PROVISIONING + "details_are_looked_at_once_a_day",
        ),
        (
            "",
            "BOUND = timedelta(minutes=5)",
            "BOUND = timedelta(minutes=50)",
            PROVISIONING + "an_error_that_heals_for_a_while_has_five_minutes",
        ),
        (
            "",
            "BOUND = timedelta(minutes=5)",
            "BOUND = timedelta(minutes=0.5)",
            PROVISIONING + "an_error_that_heals_for_a_while_has_five_minutes",
        ),
        ("", "SKEW = timedelta(seconds=60)", "SKEW = timedelta(seconds=600)", PROVISIONING + ADOPTING),
        ("", "SKEW = timedelta(seconds=60)", "SKEW = timedelta(seconds=6)", PROVISIONING + ADOPTING),
        (
            "",
            "VISIBLE_SECONDS = 20",
            "VISIBLE_SECONDS = 2",
            PROVISIONING + "a_new_repository_has_twenty_seconds_to_be_seen",
        ),
        (
            "",
            "VISIBLE_SECONDS = 20",
            "VISIBLE_SECONDS = 200",
            PROVISIONING + "a_new_repository_has_twenty_seconds_to_be_seen",
        ),
        ("_adopt", "and details.created_at >= since - SKEW", "", PROVISIONING + ADOPTING),
        (
            "_adopt",
            "and all(details.tags.get(key) == value for key, value in registry.tags)",
            "",
            PROVISIONING + ADOPTING,
        ),
        (
            "_adopt",
            "and (details.mutability, details.exclusions) == (desired.MUTABILITY, desired.EXCLUSIONS)",
            "",
            PROVISIONING + ADOPTING,
        ),
        (
            "_adopt",
            "and run.unanswered",
            "",
            PROVISIONING
            + "in_observe_mode_a_repository_made_by_hand_after_our_create_was_refused_is_not_taken_for_ours",
            PROVISIONING + "what_is_there_though_no_answer_of_ours_was_lost_is_somebody_elses",
        ),
        (
            "Lease.claim",
            "Repository.objects.filter(free, id=row.pk)",
            "Repository.objects.filter(id=row.pk)",
            PROVISIONING + "a_lease_is_held_by_one_for_ninety_seconds",
        ),
        (
            "Lease.claim",
            'mine.update(lease_owner="", lease_until=None)',
            "pass",
            PROVISIONING + "a_lease_whose_row_could_not_be_read_is_given_back",
        ),
        (
            "Lease.give_up",
            ", lease_epoch=self.epoch",
            "",
            PROVISIONING + "who_lost_a_lease_neither_gives_it_back_nor_notes_anything_under_it",
        ),
        (
            "Lease.note",
            ", lease_epoch=self.epoch",
            "",
            PROVISIONING + "who_lost_a_lease_neither_gives_it_back_nor_notes_anything_under_it",
        ),
        (
            "Lease.finish",
            ", lease_epoch=self.epoch",
            "",
            PROVISIONING + "a_result_found_under_a_lease_that_was_taken_over_is_dropped",
        ),
        (
            "reconcile",
            "lease.require_time()",
            "",
            PROVISIONING + "the_leases_time_is_looked_at_after_a_sweeps_call_has_waited_for_its_turn",
        ),
        (
            "reconcile",
            "look if lease.epoch == row.lease_epoch + 1 else None",
            "look",
            PROVISIONING + "a_look_counts_only_while_nobody_has_worked_on_the_row_since",
        ),
        (
            "reconcile",
            "look if lease.epoch == row.lease_epoch + 1 else None",
            "None",
            PROVISIONING + "a_look_counts_only_while_nobody_has_worked_on_the_row_since",
        ),
        (
            "converge",
            "except BaseException:\n        lease.give_up()",
            "except BaseException:\n        pass",
            PROVISIONING + "whatever_happens_in_a_look_the_lease_is_given_back",
        ),
        (
            "converge",
            "row.refresh_from_db()",
            "pass",
            PROVISIONING + "a_result_that_came_too_late_is_answered_with_the_newer_one",
        ),
        (
            "_usable",
            "error.installation or ",
            "",
            PROVISIONING + "a_fault_of_the_whole_installation_stops_the_deploy_also_where_the_repository_was_right",
        ),
        (
            "_write",
            "run.event(EventKind.DRIFT_FOUND, words, policy_before=policy_before).save()",
            "run.happened(EventKind.DRIFT_FOUND, words, policy_before=policy_before)",
            PROVISIONING + "a_foreign_policy_is_in_the_history_before_it_is_overwritten",
        ),
        (
            "_write",
            "if run.row.status != RepositoryStatus.FAILED or not earlier.exists():",
            "if True:",
            PROVISIONING + "a_heal_that_fails_again_and_again_adds_one_line_of_history_and_one_error",
        ),
        (
            "_write",
            "run.row.status != RepositoryStatus.FAILED or ",
            "",
            PROVISIONING + "a_drift_that_comes_back_is_in_the_history_again",
        ),
        (
            "_record",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "now",
            PROVISIONING + "the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_record",
            "(row.error_since if row.last_error_code == error.code else None) or now",
            "row.error_since or now",
            PROVISIONING + "the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_record",
            "if row.last_error != str(error):",
            "if True:",
            PROVISIONING + "the_same_error_at_each_look_is_one_line_and_its_beginning_stays",
        ),
        (
            "_record",
            'if row.status != RepositoryStatus.DRIFTED or row.differences != values["differences"]:',
            "if True:",
            PROVISIONING + "drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
            ' or row.differences != values["differences"]',
            "",
            PROVISIONING + "drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
            "row.drifted_since or now",
            "now",
            PROVISIONING + "drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is",
        ),
        (
            "_record",
            "if row.status != RepositoryStatus.MISSING:",
            "if True:",
            PROVISIONING + "that_a_repository_is_gone_is_one_line_however_often_it_is_looked_for",
        ),
        (
            "take_over",
            'origin="adopted", taken_over_at__isnull=True',
            'origin="adopted"',
            PROVISIONING + "an_operators_click_brings_an_adopted_repository_in_line_altogether",
        ),
        (
            "_create",
            'run.lease.note({"creating_since": now})',
            "pass",
            PROVISIONING + "a_create_that_was_killed_before_its_answer_is_found_to_be_ours",
        ),
        (
            "_create",
            "if not error.heals:",
            "if True:",
            PROVISIONING + "a_create_whose_error_may_have_hidden_a_success_is_remembered",
        ),
    ),
)
