//! The suite's list of behaviours and transports. `over_each` finds here the transports that a test runs over, and
//! `tests/table.rs` compares the table in `docs/src/transports.md` with it.

use super::Kind;

/// A behaviour, and the test that shows it.
pub struct Behaviour {
    /// The test: its file and its name.
    pub test: &'static str,
    /// The description in the book's table.
    pub description: &'static str,
    /// The transports over which it does not hold, and the reasons.
    pub not_over: &'static [(Kind, &'static str)],
}

/// A part of the table.
pub struct Section {
    pub title: &'static str,
    pub behaviours: &'static [Behaviour],
}

/// Holds over every transport.
const fn all(test: &'static str, description: &'static str) -> Behaviour {
    Behaviour {
        test,
        description,
        not_over: &[],
    }
}

const BOTH_WAYS: &str = "both directions of a link within a process end at once";

/// Holds over sockets.
const fn sockets(test: &'static str, description: &'static str) -> Behaviour {
    Behaviour {
        test,
        description,
        not_over: &[
            (Kind::Memory, BOTH_WAYS),
            (Kind::Bytes, BOTH_WAYS),
            (Kind::Thread, BOTH_WAYS),
        ],
    }
}

/// Holds over every transport with addresses: not over a link in memory.
const fn listeners(test: &'static str, description: &'static str) -> Behaviour {
    const NO_ADDRESS: &str = "a link in memory has no address";
    Behaviour {
        test,
        description,
        not_over: &[(Kind::Memory, NO_ADDRESS), (Kind::Bytes, NO_ADDRESS)],
    }
}

pub const SECTIONS: &[Section] = &[
    Section {
        title: "Calls",
        behaviours: CALLS,
    },
    Section {
        title: "Time limits and cancellation",
        behaviours: TIME,
    },
    Section {
        title: "Functions as values",
        behaviours: FUNCTIONS,
    },
    Section {
        title: "Accepting and refusing",
        behaviours: HANDSHAKE,
    },
    Section {
        title: "The end of a connection, and the next one",
        behaviours: END,
    },
    Section {
        title: "Limits",
        behaviours: LIMITS,
    },
    Section {
        title: "Counting",
        behaviours: COUNTING,
    },
];

const CALLS: &[Behaviour] = &[
    all(
        "conformance::a_call_gets_its_answer",
        "A call gets its answer; a name may have dots.",
    ),
    all(
        "conformance::every_number_of_results_arrives",
        "No result, one and several results arrive as such.",
    ),
    all(
        "behaviours::nils_keep_their_positions",
        "Nils among arguments and results keep their positions, trailing ones included.",
    ),
    all(
        "conformance::large_values_arrive_whole",
        "Values of megabytes arrive whole.",
    ),
    all(
        "conformance::errors_arrive_with_their_kind_and_message",
        "An error arrives with its type and message; so do a panic and a missing method.",
    ),
    all(
        "conformance::many_fibers_share_a_connection",
        "Any number of fibers call over one connection at once.",
    ),
    all(
        "conformance::a_slow_handler_holds_up_no_other",
        "A slow handler delays no other request.",
    ),
    all(
        "conformance::requests_start_in_the_order_of_their_calls",
        "Requests start in the order of their calls.",
    ),
    all(
        "behaviours::notifications_and_calls_keep_their_order",
        "Notifications keep their order among them.",
    ),
    all(
        "conformance::notifications_arrive_and_unknown_ones_are_ignored",
        "Notifications arrive; unknown ones are ignored.",
    ),
    all(
        "conformance::a_handler_can_call_its_caller_during_the_call",
        "A handler calls its caller back while the caller waits.",
    ),
    all(
        "behaviours::calls_nest_both_ways",
        "Calls back and forth nest, 50 deep.",
    ),
    all(
        "conformance::an_asynchronous_call_reports_its_outcome_once",
        "An asynchronous call reports its outcome once, whatever it is.",
    ),
    all(
        "conformance::spawned_fibers_inherit_the_peer_and_nothing_leaks_to_the_next_request",
        "A fiber that a handler starts inherits the handler's peer; the next request inherits nothing.",
    ),
    all(
        "conformance::plain_peers_get_plain_messages",
        "A peer that sends no hello gets plain msgpack-rpc.",
    ),
];

const TIME: &[Behaviour] = &[
    all(
        "conformance::a_handler_that_has_started_runs_to_its_end_whatever_its_caller_does",
        "A handler that has started runs to its end, whatever its caller does.",
    ),
    all(
        "conformance::the_calls_of_a_handler_outlast_its_caller",
        "The calls that a handler makes do not end when its caller times out.",
    ),
    all(
        "conformance::a_request_whose_caller_gave_up_before_it_starts_never_starts",
        "A request whose caller times out or cancels before it starts never starts.",
    ),
    all(
        "conformance::a_call_that_times_out_cancels_its_handler_if_callers_may_cancel",
        "With `cancel`, a call that times out cancels its handler.",
    ),
    all(
        "conformance::a_cancelled_call_cancels_its_handler_if_callers_may_cancel",
        "With `cancel`, a call that is cancelled cancels its handler.",
    ),
    all(
        "conformance::a_deadline_travels_along_a_chain_of_calls_if_callers_may_cancel",
        "With `cancel`, the caller's remaining time travels along a chain of calls.",
    ),
    all(
        "late::a_call_after_a_long_computation_has_its_full_time",
        "The time limit of a call starts with the call, however busy its loop has been.",
    ),
    all(
        "life::a_call_that_times_out_runs_the_hook",
        "The timeout hook runs, and the connection stays open.",
    ),
    all(
        "life::a_timeout_is_reported_once_whichever_side_notices_it_first",
        "One timeout is one error, one hook and one count, whichever side notices it.",
    ),
];

const FUNCTIONS: &[Behaviour] = &[
    all(
        "references::a_function_that_on_accept_passes_may_be_called_before_the_grant",
        "A function that `__accept` passes to the client can be called before the grant.",
    ),
    all(
        "conformance::functions_cross_as_references_and_are_released",
        "A function that is passed can be called, and is released when the peer returns it.",
    ),
    all(
        "behaviours::a_function_that_returns_to_its_owner_is_the_original",
        "A function that returns to its owner is the original function.",
    ),
    all(
        "behaviours::functions_end_with_their_connection",
        "Functions end with their connection: each is released, and calls of it fail.",
    ),
    all(
        "behaviours::functions_in_undecoded_messages_are_released",
        "Functions in a request that is refused, or in an answer that arrives too late, are released.",
    ),
];

const HANDSHAKE: &[Behaviour] = &[
    all(
        "conformance::a_grant_carries_its_value_and_calls_go_both_ways_before_it",
        "Before the grant both peers may call; the grant carries a value.",
    ),
    all(
        "life::a_refused_client_learns_the_reason",
        "A client that is refused learns the reason.",
    ),
    all(
        "life::a_refused_client_that_retries_is_granted_and_its_call_succeeds",
        "If it retries and is granted, its first call succeeds.",
    ),
    all(
        "life::a_plain_client_that_is_refused_gets_errors_for_its_requests",
        "A refused client that is not a yue client gets errors for its requests.",
    ),
    all(
        "life::a_handshake_that_takes_too_long_is_refused_while_others_are_served",
        "A handshake that takes too long is refused; others are served meanwhile.",
    ),
    all(
        "life::hooks_may_call_and_a_hook_that_fails_closes_only_its_connection",
        "Hooks may call; a hook that fails closes only its connection.",
    ),
    all(
        "slow::a_client_that_calls_too_often_is_refused_and_one_that_does_not_stop_is_closed",
        "A connection that calls more often than `rate` allows is refused, and closed if it does not stop.",
    ),
    all(
        "accounts::a_connection_above_the_limit_is_refused_until_another_leaves",
        "A connection above the listener's limit is refused with that reason.",
    ),
];

const END: &[Behaviour] = &[
    all(
        "life::both_sides_learn_why_a_connection_ended",
        "Both sides learn that a connection was closed, and by which side.",
    ),
    all(
        "life::a_reason_to_close_reaches_the_peer",
        "A reason to close reaches the peer.",
    ),
    all(
        "behaviours::messages_written_before_a_close_are_sent_and_started",
        "Messages written before a close are still sent, and the peer starts them, notifications included.",
    ),
    sockets(
        "behaviours::a_half_closed_client_gets_its_answers",
        "A client that shuts down its sending side gets the answers to its requests.",
    ),
    listeners(
        "behaviours::a_call_to_an_address_without_a_listener_is_connection_refused",
        "A call to an address where nobody listens is `ConnectionRefusedError`, with the address.",
    ),
    listeners(
        "behaviours::an_address_has_one_listener",
        "An address has one listener; when that is closed, another may listen there.",
    ),
    listeners(
        "behaviours::a_closed_listener_keeps_its_connections",
        "A closed listener accepts no new connections and keeps the existing ones.",
    ),
    listeners(
        "behaviours::a_server_that_comes_back_finds_its_clients_calls_waiting",
        "A lost connection is made again; calls that were not sent yet go out over the new one.",
    ),
];

const LIMITS: &[Behaviour] = &[
    all(
        "limits::a_call_or_a_result_over_the_size_limit_is_an_error_and_the_connection_stays",
        "Message size: an error of that call; the connection stays open.",
    ),
    all(
        "behaviours::a_message_nested_too_deep_is_refused_and_others_are_served",
        "Nesting: an error of that call and a new link; others are served.",
    ),
    all(
        "limits::too_many_requests_in_flight_are_refused_as_busy",
        "Requests in flight: those above the limit get `ServerBusyError`.",
    ),
    all(
        "limits::outgoing_calls_above_the_limit_fail_before_they_are_sent",
        "Outgoing calls in flight: the ones above the limit fail before they are sent.",
    ),
    all(
        "limits::references_are_bounded",
        "Functions that the peer holds: a call that would pass more fails.",
    ),
    all(
        "limits::two_sides_that_flood_each_other_both_get_through",
        "Two peers that flood each other both make progress.",
    ),
    all(
        "reading::requests_above_the_input_limit_are_read_when_those_before_have_ended",
        "Requests above the limit in bytes are left unread, and read when those before have ended.",
    ),
    all(
        "fair::a_client_that_pipelines_long_requests_does_not_starve_others",
        "A client that pipelines long requests does not starve others.",
    ),
    all(
        "limits::an_idle_connection_holds_no_fiber",
        "An idle connection holds no fiber.",
    ),
];

const COUNTING: &[Behaviour] = &[
    all(
        "behaviours::both_sides_count_the_same",
        "Bytes and messages that one peer counts as sent, the other counts as received.",
    ),
    all(
        "metrics::the_metrics_include_both_sides_and_sessions_that_have_ended",
        "The process's metrics include all sessions, ended ones too.",
    ),
];

/// The behaviour that a test shows.
pub fn of_test(test: &str) -> Option<&'static Behaviour> {
    let mut all = SECTIONS.iter().flat_map(|section| section.behaviours);
    all.find(|behaviour| behaviour.test == test)
}

/// The tests whose behaviours hold over datagrams, too. Theirs beside these are in `udp.rs`.
const OVER_DATAGRAMS: &[&str] = &[
    "conformance::errors_arrive_with_their_kind_and_message",
    "conformance::a_slow_handler_holds_up_no_other",
    "conformance::a_handler_can_call_its_caller_during_the_call",
    "behaviours::calls_nest_both_ways",
    "conformance::an_asynchronous_call_reports_its_outcome_once",
    "conformance::plain_peers_get_plain_messages",
    "conformance::a_handler_that_has_started_runs_to_its_end_whatever_its_caller_does",
    "conformance::the_calls_of_a_handler_outlast_its_caller",
    "life::a_call_that_times_out_runs_the_hook",
    "behaviours::a_call_to_an_address_without_a_listener_is_connection_refused",
    "limits::a_call_or_a_result_over_the_size_limit_is_an_error_and_the_connection_stays",
    "limits::too_many_requests_in_flight_are_refused_as_busy",
    "limits::outgoing_calls_above_the_limit_fail_before_they_are_sent",
];

const DATAGRAMS: &str = "datagrams are lost, overtake each other, and have no connection that begins or ends; the \
                         messages are plain msgpack-rpc";

impl Behaviour {
    /// The reason why it does not hold over that transport, if it does not.
    pub fn fault_over(&self, kind: Kind) -> Option<&'static str> {
        if kind == Kind::Udp && !OVER_DATAGRAMS.contains(&self.test) {
            return Some(DATAGRAMS);
        }
        let mut faults = self.not_over.iter();
        faults
            .find(|(other, _)| *other == kind)
            .map(|(_, why)| *why)
    }
}
