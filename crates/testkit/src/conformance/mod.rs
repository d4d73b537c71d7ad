//! The suite every storage adapter must pass. A case is a function of a [`Subject`]; `store_conformance!` makes a test
//! of each.

pub mod backfill;
pub mod chain;
pub mod consolidation;
pub mod dense;
pub mod derivation;
pub mod forget;
pub mod graph;
pub mod integrity;
pub mod jobs;
pub mod keys;
pub mod lexical;
pub mod lifecycle;
pub mod maintenance;
pub mod merged_topics;
pub mod named;
pub mod operate;
pub mod outbox;
pub mod purge;
pub mod read;
pub mod reports;
pub mod retention;
pub mod rows;
mod subject;
pub mod surroundings;
pub mod topics;
pub mod write;

pub use self::subject::{ATTEMPTS_MAX, AuditRow, Inspect, LEASE, MODEL, Subject, soon};

/// Expands to one test per case. The argument is the path of an `async fn() -> Subject` that makes a fresh, empty store
/// with the options [`MODEL`], [`crate::fixtures::DIM`] and [`ATTEMPTS_MAX`]; the path must be absolute.
#[macro_export]
macro_rules! store_conformance {
    ($make:path) => {
        $crate::store_conformance! { @cases $make;
            write: [
                outcomes_are_created_updated_unchanged,
                new_vitals_touch_a_node_without_a_new_version,
                an_update_keeps_the_old_version_with_its_interval,
                an_update_keeps_the_vitals_it_does_not_name,
                an_edge_written_again_takes_the_larger_values_and_keeps_its_id,
                an_unknown_edge_end_is_refused_and_nothing_is_stored,
                w_22_an_edge_may_name_an_earlier_node_by_its_client_id,
                an_edge_id_in_use_for_another_pair_is_refused,
                a_parent_commit_must_exist_and_need_not_be_the_head,
                an_identical_retry_returns_the_same_commit,
                there_and_back_again_makes_a_new_commit,
                a_request_key_replays_the_stored_outcome,
                a_strict_key_with_another_body_is_a_conflict,
                a_loose_key_with_another_body_is_a_new_write,
                request_keys_belong_to_their_scope,
                a_refused_request_leaves_its_key_free,
                a_write_over_two_scopes_makes_one_commit_in_each,
                a_failing_part_stores_nothing_in_any_scope,
                a_private_node_without_owner_is_stored_with_a_warning,
                a_private_node_is_written_to_by_its_owner_only,
                updating_a_live_rule_makes_it_a_draft_and_warns,
            ];
            chain: [
                w_13_many_writers_on_one_scope_make_one_linear_chain,
                writers_over_several_scopes_do_not_mix_their_chains,
                writers_over_overlapping_pairs_of_scopes_all_finish,
                w_02_refused_writes_harm_no_neighbour,
                equal_requests_at_once_make_one_commit,
                equal_request_keys_at_once_make_one_commit,
                w_21_many_updates_of_one_node_keep_every_version,
                a_waiter_for_a_commit_wakes_up,
                waiting_for_a_commit_that_is_there_returns_at_once,
            ];
            dense: [
                nearest_first_and_equal_to_an_exact_scan,
                equal_distances_are_ordered_by_id,
                more_equal_distances_than_candidates_are_ordered_by_id,
                lengths_do_not_matter,
                fewer_vectors_than_asked_are_all_returned,
                w_11_a_selective_filter_never_returns_fewer_than_asked,
                a_replaced_vector_is_not_found_any_more,
                an_update_without_vector_is_not_found_until_one_is_derived,
                other_scopes_are_not_searched,
            ];
            lexical: [
                a_word_is_found_as_soon_as_its_write_returns,
                statistics_are_those_of_the_documents,
                the_best_by_bm25_come_first_ties_by_id,
                an_update_removes_old_words,
                updates_folded_together_leave_the_last_words,
                other_scopes_and_tenants_do_not_count,
                a_filter_hides_documents_but_keeps_the_statistics,
                writes_while_posting_lists_load_are_not_lost,
            ];
            named: [
                a_node_is_named_by_its_whole_title,
                a_long_title_is_no_name,
                a_title_given_up_names_no_more,
                a_node_is_quoted_by_its_client_id_or_id,
                a_client_id_given_up_quotes_no_more,
            ];
            graph: [
                limits_hold_per_direction_and_the_strongest_win,
                thresholds_are_inclusive,
                every_edge_comes_once,
                a_stronger_edge_is_seen_at_once,
                hidden_ends_do_not_use_up_the_limit,
                other_scopes_have_other_edges,
            ];
            surroundings: [
                neighbours_follow_the_candidates_and_are_open_if_they_may_be_seeds,
            ];
            rows: [
                who_sees_what_by_lane_owner_and_team,
                w_17_what_may_be_a_seed_by_tier_type_and_state,
                vitals_come_in_the_order_asked_and_only_of_what_may_be_seen,
                rows_come_in_full_and_in_the_order_asked,
                a_rule_row_has_its_executable_part,
                commit_ids_come_in_the_order_asked,
                stored_vectors_come_back_exactly,
                the_status_of_a_scope_follows_its_vectors,
                recalls_are_audited,
            ];
            derivation: [
                w_12_vectors_of_changed_content_are_dropped,
                vectors_of_nodes_outside_the_claim_are_dropped,
                a_node_that_cannot_be_embedded_fails_alone,
                vectors_that_do_not_compare_are_refused,
                pending_texts_are_what_is_stored_now,
                force_derives_again,
                a_retry_of_a_failed_node_makes_it_wait_again,
                another_write_of_a_failed_node_makes_it_wait_again,
                a_waiting_node_is_not_queued_twice,
                a_vector_brought_by_the_caller_queues_nothing,
                a_vector_brought_while_one_is_derived_stays,
                a_touched_node_has_waited_since_it_was_written,
                one_node_named_by_several_items_gets_one_vector,
            ];
            outbox: [
                a_claim_leases_an_item,
                an_expired_lease_is_claimed_again_and_the_late_one_stores_nothing,
                an_extended_lease_lasts_longer,
                claims_at_once_share_the_items_out,
                oldest_items_come_first,
                a_tenant_with_many_items_does_not_starve_others,
                a_failure_is_tried_again_when_it_says,
                counted_failures_end_in_the_dead_letters,
                a_final_failure_goes_to_the_dead_letters_at_once,
                failures_that_do_not_count_burn_no_attempt,
                a_failed_claim_is_no_longer_held,
                an_unreadable_item_holds_up_no_other,
                waiting_workers_are_woken_by_work,
                the_queue_reports_its_state,
            ];
            maintenance: [
                dead_letters_are_put_back,
                failed_nodes_are_queued_again,
                unreadable_dead_letters_stay,
                old_answers_are_forgotten,
                a_new_generation_grows_beside_the_old_one,
                a_switch_queues_what_is_left,
            ];
            operate: [
                a_rule_goes_live_and_is_switched_off,
                a_rule_that_changed_since_it_was_checked_keeps_its_state,
                only_rules_of_the_scope_take_feedback,
                feedback_is_counted_and_kept,
                a_state_without_a_commit_is_damage,
                a_repeated_key_counts_once,
                activation_is_noted_beside_the_content,
                rehydrated_nodes_are_found_again,
                decisions_are_kept_and_found,
                a_decision_is_credited_once,
                a_decision_is_made_from_feedback,
                what_is_not_seen_is_not_operated_on,
                w_21_operations_and_writes_at_once_lose_nothing,
            ];
            read: [
                pages_hold_every_node_once_newest_first,
                a_filter_lets_through_what_it_says,
                a_page_looks_at_so_many_rows,
                pages_over_many_rows_lose_none,
                find_shows_what_the_eyes_see,
                a_history_holds_every_content,
                a_state_is_named_in_three_ways,
                nodes_are_found_as_they_were,
                an_earlier_state_is_searched,
                a_rule_says_what_it_said,
            ];
            forget: [
                a_forgotten_node_is_gone_everywhere,
                a_token_is_for_what_was_looked_at,
                a_repeated_key_erases_once,
                a_forgotten_node_may_be_written_again,
                a_forgotten_rule_takes_its_feedback_and_policies,
                a_decision_stored_while_its_rule_is_forgotten_keeps_nothing_of_it,
                a_forgotten_node_that_was_a_rule_takes_its_feedback_too,
                work_under_way_on_a_forgotten_node_stores_nothing,
                unreadable_work_does_not_keep_a_node,
                only_what_may_be_changed_is_forgotten,
                forgetting_and_writing_at_once_keep_the_chain,
            ];
            jobs: [
                a_lease_has_one_holder_and_a_cursor_is_left_to_the_next,
                a_late_holder_stores_nothing,
                a_lease_asked_for_at_once_is_given_once,
                a_dry_run_and_a_run_without_lease_take_nothing,
                what_ran_meanwhile_is_not_due,
                scopes_are_due_by_their_last_run,
                runs_are_listed_the_newest_first,
            ];
            reports: [
                what_happened_is_counted_by_scope_and_time,
                a_run_has_one_vote,
                rules_are_asked_for_by_state_and_limit,
                quality_is_counted,
                a_random_history_is_counted_as_it_was_told,
            ];
            retention: [
                old_rows_go_in_batches_and_young_ones_stay,
                a_decision_that_feedback_names_stays,
                what_runs_is_kept_and_what_ended_goes,
            ];
            backfill: [
                nodes_without_a_vector_are_listed_whatever_their_state,
                nodes_without_a_vector_are_queued_once,
                what_moved_on_is_left_alone,
                a_scope_that_is_purged_gets_no_work,
                private_nodes_without_owner_are_listed,
                an_owner_is_given_by_a_write_of_a_job,
                a_job_does_not_write_over_what_changed,
            ];
            topics: [
                events_in_no_topic_come_in_pages_oldest_first,
                a_look_for_events_is_bounded_and_counts_what_it_sees,
                the_nearest_topics_are_those_of_the_group,
                a_mean_is_that_of_the_members_of_the_group,
                events_of_a_topic_come_newest_first,
                sources_come_in_full_and_in_the_order_asked,
                what_was_made_of_changed_sources_is_not_stored,
                what_jobs_made_is_forgotten_with_what_it_quotes,
                what_jobs_made_goes_when_fewer_may_see_its_source,
                a_topic_goes_when_fewer_may_see_a_member,
                a_job_is_made_due,
            ];
            merged_topics: [
                what_jobs_made_is_found_after_its_edges_were_moved,
                a_merged_topic_takes_no_events,
                while_a_scope_is_purged_no_topics_are_read_or_written,
            ];
            lifecycle: [
                a_tier_is_read_page_by_page,
                what_fading_depends_on_is_the_same_everywhere,
                a_planned_move_is_made_and_noted,
                a_move_is_planned_again_against_what_is_stored,
                moves_are_counted_and_hide_what_turns_cold,
                a_live_rule_holds_in_any_tier,
                use_is_noted_without_a_commit,
                what_comes_back_does_not_go_at_once,
                a_forgotten_node_is_counted_no_more,
            ];
            keys: [
                a_key_is_found_by_its_digest,
                a_key_is_stored_once,
                keys_are_listed_in_pages,
                an_active_key_is_known_of,
                a_rotated_key_ends_with_its_grace,
                only_a_key_in_use_is_rotated,
                rotations_at_once_replace_a_key_once,
                a_revoked_key_stays_revoked,
            ];
            purge: [
                a_purged_scope_is_gone_and_others_stay_however_they_are_named,
                a_purge_touches_no_other_scope,
                while_it_is_purged_a_scope_is_not_there_and_takes_nothing_in,
                work_under_way_on_a_purged_scope_stores_nothing,
                a_scope_that_is_written_again_is_another_one,
                a_purge_is_by_the_plan_of_the_head,
                records_of_purges_are_chained,
            ];
            consolidation: [
                pairs_wait_until_they_are_decided,
                nodes_are_paged_by_id,
                ops_12_an_alias_counts_for_its_canonical_node,
                ops_05_edges_are_moved_and_none_is_lost,
                a_dry_run_changes_nothing,
                forgetting_takes_what_consolidation_keeps,
                random_graphs_are_merged_and_taken_back,
                writes_between_merge_and_undo_are_told,
                an_alias_leads_as_long_as_its_canonical_node_is_there,
                words_of_aliases_are_counted_as_before,
                while_a_scope_is_purged_nothing_is_queued_or_merged,
            ];
            integrity: [
                pages_cover_everything_once_in_order,
                scopes_are_listed_by_tenant_and_name,
                a_snapshot_is_one_state,
                a_store_in_use_is_sound,
            ];
        }
    };
    (@cases $make:path; $($group:ident: [$($case:ident),* $(,)?];)*) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let subject = $make().await;
                $crate::conformance::$group::$case(&subject).await;
            })*
        })*
    };
}

#[cfg(test)]
mod tests {
    /// A case that is written but not listed would never run.
    #[test]
    fn every_case_is_listed() {
        let list = include_str!("mod.rs");
        for source in [
            include_str!("backfill.rs"),
            include_str!("chain.rs"),
            include_str!("consolidation.rs"),
            include_str!("dense.rs"),
            include_str!("forget.rs"),
            include_str!("graph.rs"),
            include_str!("integrity.rs"),
            include_str!("keys.rs"),
            include_str!("lexical.rs"),
            include_str!("lifecycle.rs"),
            include_str!("maintenance.rs"),
            include_str!("named.rs"),
            include_str!("merged_topics.rs"),
            include_str!("operate.rs"),
            include_str!("outbox.rs"),
            include_str!("purge.rs"),
            include_str!("read.rs"),
            include_str!("reports.rs"),
            include_str!("retention.rs"),
            include_str!("rows.rs"),
            include_str!("topics.rs"),
            include_str!("write.rs"),
        ] {
            for line in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
                let case = line.split('(').next().unwrap_or_default();
                assert!(list.contains(&format!("\n                {case},\n")), "{case} is not in store_conformance!");
            }
        }
    }
}
